import numpy as np
import pytest
import torch
from pydantic import ValidationError

from sicsrec.config import PipelineConfig, TrainSicsrecConfig
from sicsrec.data.vectors import ItemVectors
from sicsrec.errors import DataError
from sicsrec.models.id_encoder import IdEncoder
from sicsrec.steps.item_vectors import choose_vectors
from sicsrec.steps.train_sicsrec import build_sicsrec
from tests.unit.stage_one import SMALL_CLIP

SMALL = {"width": 8, "inner_width": 8, "n_layers": 1, "n_heads": 2, "max_history_length": 4}
GIVEN = {"kind": "given", "text": "text.npy"}


def vectors(modality, *present):
    mask = np.array(present)
    return ItemVectors(modality, np.eye(3, 4, dtype=np.float32) * mask[:, None], mask)


TEXT = vectors("text", True, True, True)
IMAGE = vectors("image", False, True, False)
NO_IMAGE = vectors("image", False, False, False)


def configure(train=None, pretrain=None, **sections):
    return PipelineConfig.model_validate(
        {
            "dataset": "small",
            "ingest": {"reader": {"kind": "demo"}},
            "align_encoders": {"text_encoder": SMALL_CLIP},
            "pretrain_id": SMALL | (pretrain or {}),
            "train_sicsrec": SMALL | (train or {}),
            **sections,
        }
    )


def build(**changes):
    torch.manual_seed(1)
    pretrained = IdEncoder(n_items=3, dropout=0.0, **SMALL)
    torch.manual_seed(2)
    section = TrainSicsrecConfig(**SMALL | changes)
    return build_sicsrec(section, 3, [TEXT], pretrained), pretrained.state_dict()


def test_all_vectors_are_used_unless_some_are_named():
    assert choose_vectors([TEXT, IMAGE], None, "train_sicsrec") == [TEXT, IMAGE]
    assert choose_vectors([TEXT, IMAGE], ["image"], "train_sicsrec") == [IMAGE]
    assert choose_vectors([TEXT, IMAGE], ["image", "text"], "train_sicsrec") == [TEXT, IMAGE]


@pytest.mark.parametrize("found", [[TEXT], [TEXT, NO_IMAGE]])
def test_a_modality_that_no_item_has_is_an_error(found):
    with pytest.raises(DataError, match="names image, but no item has a vector"):
        choose_vectors(found, ["text", "image"], "train_sicsrec")


def test_two_steps_take_over_the_weights_of_the_first_and_one_step_does_not():
    model, weights = build()
    own = model.id_encoder.state_dict()
    assert all(torch.equal(own[name], value) for name, value in weights.items())
    model, weights = build(two_step=False)
    own = model.id_encoder.state_dict()
    assert set(own) == set(weights), "there are no adapters"
    assert not torch.equal(own["item_embedding.weight"], weights["item_embedding.weight"])
    assert all(parameter.requires_grad for parameter in model.id_encoder.parameters())


@pytest.mark.parametrize("rank", [0, None])
def test_rank_nought_and_null_mean_no_adapters(rank):
    model, weights = build(adapter_rank=rank)
    assert set(model.id_encoder.state_dict()) == set(weights)
    assert not model.id_encoder.transformer.layers[0].attention.query.weight.requires_grad


def test_the_default_is_the_paper():
    section = TrainSicsrecConfig()
    assert (section.two_step, section.adapter_rank, section.item_scoring) == (True, 4, "id")
    assert section.modalities is None


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"modalities": []}, "at least 1 item"),
        ({"modalities": ["text", "text"]}, "names a modality twice"),
        ({"modalities": ["sound"]}, "'text' or 'image'"),
        ({"modalities": ["text", "image"]}, "align_encoders.image_encoder is missing"),
        ({"adapter_rank": -1}, "adapter_rank"),
        ({"item_scoring": "id_and_content", "scoring": "raw"}, "set scoring: normalised"),
        ({"item_scoring": "id_and_content", "content_weight": 0.0}, "content_weight"),
        ({"width": 16}, "step 2 loads the weights of step 1"),
        ({"width": 16, "two_step": False}, "two_step: false is compared with"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(train, words):
    with pytest.raises(ValidationError, match=words):
        configure(train)


def test_modalities_are_those_of_encoders_or_of_given_files():
    assert configure().modalities == ("text",)
    given = configure(encode_items={"source": GIVEN | {"image": "second.npy"}})
    assert given.modalities == ("text", "image")
    with pytest.raises(ValidationError, match=r"encode_items.source.image is missing"):
        configure({"modalities": ["image"]}, encode_items={"source": GIVEN})
