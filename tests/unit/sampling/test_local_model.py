import pytest
import torch
from transformers import LlamaForCausalLM

from sicsrec.config.judges import TransformersJudgeConfig
from sicsrec.errors import BackendError, ConfigError
from sicsrec.sampling.judges import local_model
from sicsrec.sampling.judges.local_model import LocalModel
from sicsrec.sampling.language_model import Request
from tests.unit.sampling.tiny_language_model import (
    save_random_model,
    save_scripted_model,
    save_tokenizer,
)

PROMPTS = [f"{'word ' * (7 * row % 5)}{row}" for row in range(7)]


def ask(model, prompts=PROMPTS, device="cpu", **values):
    config = TransformersJudgeConfig(model=str(model), **{"max_answer_tokens": 20, **values})
    requests = [Request(f"k{row}", prompt, 3, 2) for row, prompt in enumerate(prompts)]
    answers = LocalModel(config, device).complete(requests)
    return {request.prompt: reply for request, reply in answers}


def test_a_batch_answers_as_one_by_one(tmp_path):
    model = save_random_model(tmp_path)
    one, many = ask(model, batch_size=1), ask(model, batch_size=4)
    assert list(one) == list(many) == PROMPTS
    for prompt, reply in one.items():
        other = many[prompt]
        assert (reply.text, reply.prompt_tokens) == (other.text, other.prompt_tokens)
        assert (reply.finish_reason, reply.answer_tokens) == (
            other.finish_reason,
            other.answer_tokens,
        )
        # The template adds three tokens; every character is one.
        assert reply.prompt_tokens == len(prompt) + 3
    assert len({reply.text for reply in one.values()}) > 3


def test_answers_end_where_the_model_ends_them(tmp_path):
    model = save_scripted_model(tmp_path, '{"positive": 1, ', '"negatives": [2]}')
    reply = ask(model)[PROMPTS[0]]
    assert reply.text == '{"positive": 1, "negatives": [2]}'
    assert (reply.answer_tokens, reply.finish_reason) == (3, "stop")
    cut = ask(model, max_answer_tokens=1)[PROMPTS[0]]
    assert (cut.text, cut.answer_tokens, cut.finish_reason) == ('{"positive": 1, ', 1, "length")


def test_settings_of_the_model_that_ask_for_sampling_are_not_followed(tmp_path):
    folder = save_random_model(tmp_path)
    plain = ask(folder)
    model = LlamaForCausalLM.from_pretrained(folder)
    model.generation_config.update(do_sample=True, temperature=5.0, top_k=3)
    model.save_pretrained(folder)
    assert {prompt: reply.text for prompt, reply in ask(folder).items()} == {
        prompt: reply.text for prompt, reply in plain.items()
    }


def test_what_is_asked_to_finish_first_is_finished(tmp_path):
    model = save_random_model(tmp_path)
    taken = []

    def requests():
        for row, prompt in enumerate(PROMPTS[:4]):
            taken.append(prompt)
            yield Request(f"k{row}", prompt, 3, 2)
            yield None

    config = TransformersJudgeConfig(model=str(model), max_answer_tokens=3, batch_size=4)
    for number, _ in enumerate(LocalModel(config, "cpu").complete(requests()), start=1):
        assert len(taken) == number


def test_pickled_weights_are_refused(tmp_path):
    folder = save_random_model(tmp_path)
    weights = LlamaForCausalLM.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(BackendError, match="weights of judge"):
        ask(folder)


def test_a_model_without_a_chat_template_is_refused(tmp_path):
    folder = save_random_model(tmp_path)
    (folder / "chat_template.jinja").unlink()
    save_tokenizer(folder, template=None)
    with pytest.raises(ConfigError, match="no chat template"):
        ask(folder)


def test_questions_longer_than_the_model_reads_say_what_to_lower(tmp_path):
    folder = save_random_model(tmp_path, max_position_embeddings=30)
    with pytest.raises(ConfigError, match=r"reads 30 tokens.*n_candidates"):
        ask(folder, ["x" * 20])


def test_too_little_memory_says_what_to_lower(tmp_path, monkeypatch):
    folder = save_random_model(tmp_path)

    def generate(self, **arguments):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(LlamaForCausalLM, "generate", generate)
    with pytest.raises(BackendError, match="batch_size"):
        ask(folder)


def test_a_model_that_is_nowhere_says_what_to_do(tmp_path):
    with pytest.raises(BackendError, match=r"(?s)nobody/none.*give that folder as the judge's"):
        ask("nobody/none")
    with pytest.raises(ConfigError, match="no_such_package"):
        ask("package:no_such_package/model")


def test_a_local_model_is_known_by_its_visible_files(tmp_path):
    folder = save_random_model(tmp_path)
    config = TransformersJudgeConfig(model=str(folder))
    before = LocalModel(config, "cpu").identity
    (folder / ".cache").mkdir()
    (folder / ".cache" / "model.safetensors.metadata").write_text("1764172800.0")
    assert LocalModel(config, "cpu").identity == before
    (folder / "chat_template.jinja").write_text("another")
    assert LocalModel(config, "cpu").identity != before


def test_the_type_follows_the_device(monkeypatch):
    choose = local_model._choose_dtype
    assert choose("auto", "cpu") == torch.float32
    assert choose("auto", "mps") == torch.float16
    assert choose("float32", "cuda") == torch.float32
    for is_supported, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda answer=is_supported: answer)
        assert choose("auto", "cuda:1") == dtype
