import pytest
import torch
from mlflow.exceptions import MlflowException

from flows.configuration import resolve_config
from sicsrec.errors import DataError, MemoryFullError, SicsrecError, TrackingError
from sicsrec.steps import STEP_NAMES
from sicsrec.steps.trouble import explained

CONFIG = resolve_config("demo").config


@pytest.mark.parametrize(
    ("step", "advice"),
    [
        ("align_encoders", ("align_encoders.items_at_a_time=", "gradient_cache=true")),
        ("encode_items", ("encode_items.batch_size=",)),
        ("train_sicsrec", ("train_sicsrec.batch_targets", "sampled_softmax_above")),
        ("sample_pairs", ("smaller model",)),
        ("evaluate", ("more memory",)),
    ],
)
def test_full_accelerator_is_told_with_what_helps_this_step(
    step: str, advice: tuple[str, ...]
) -> None:
    first = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
    with (
        pytest.raises(MemoryFullError, match="SICSREC_DEVICE=cpu") as caught,
        explained(step, CONFIG),
    ):
        raise first
    assert caught.value.__cause__ is first
    assert not [words for words in advice if words not in str(caught.value)]


def test_an_accelerator_that_others_have_filled() -> None:
    first = torch.AcceleratorError("CUDA error: out of memory")
    with pytest.raises(MemoryFullError, match="nvidia-smi"), explained("export", CONFIG):
        raise first
    other = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(torch.AcceleratorError), explained("export", CONFIG):
        raise other


@pytest.mark.parametrize("step", STEP_NAMES)
def test_advised_values_are_values_of_the_step(step: str) -> None:
    with pytest.raises(MemoryFullError) as caught, explained(step, CONFIG):
        raise MemoryError
    overrides = [
        word.rstrip(",.") for word in str(caught.value).split() if word.startswith(f"{step}.")
    ]
    assigned = [word for word in overrides if "=" in word]
    resolve_config("demo", overrides=assigned)
    for word in set(overrides) - set(assigned):
        assert hasattr(getattr(CONFIG, step), word.split(".")[1])


def test_torch_on_a_full_machine() -> None:
    words = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
    with pytest.raises(MemoryFullError, match="of this machine"), explained("export", CONFIG):
        raise RuntimeError(words)


def test_record_that_mlflow_does_not_take() -> None:
    message = "API request to http://me:s3cret@host/api failed\nwith details"
    with (
        pytest.raises(TrackingError, match="request to http://host/api failed") as caught,
        explained("export", CONFIG),
    ):
        raise MlflowException(message)
    assert "MLFLOW_TRACKING_URI" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "details" not in str(caught.value)


@pytest.mark.parametrize("error", [DataError("no folder"), ValueError("a bug")])
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explained("ingest", CONFIG):
        raise error
    assert caught.value is error


def test_a_password_in_the_words_of_an_unknown_error_is_not_repeated() -> None:
    first = OSError("413 for url http://me:s3cret@host/api")
    with (
        pytest.raises(SicsrecError, match="export: OSError: 413 for url http://host/api") as caught,
        explained("export", CONFIG),
    ):
        raise first
    assert caught.value.__cause__ is first
