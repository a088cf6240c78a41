"""Errors of libraries below a step, told as errors of ours that say what helps."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sicsrec.addresses import without_passwords
from sicsrec.config import PipelineConfig
from sicsrec.errors import MemoryFullError, SicsrecError, TrackingError
from sicsrec.tracking import is_tracking_failure
from sicsrec.tracking.outbox import first_line

_TRAINING = "lower {step}.batch_targets (now {batch_targets})"
_LARGE_CATALOGUE = (
    ", and for a large catalogue {step}.sampled_softmax_above (now {sampled_softmax_above:,} "
    "items), so that fewer items are compared at once"
)


@contextmanager
def explained(step: str, config: PipelineConfig) -> Iterator[None]:
    """Raise what a step runs out of, or cannot reach, as an error that says what to change.

    The first error stays its cause.

    Args:
        step: name of the step that runs inside the block.
        config: the whole configuration.

    Raises:
        MemoryFullError: if the memory of the accelerator or of the machine is full.
        TrackingError: if the MLflow server does not take a record.
        SicsrecError: in place of an error whose words hold the password of a server.
    """
    try:
        yield
    except SicsrecError:
        raise
    except Exception as err:
        known = _explain(err, step, config)
        if known is None:
            raise
        raise known from err


def _explain(error: Exception, step: str, config: PipelineConfig) -> SicsrecError | None:
    advice = _less_memory(step, config)
    if _is_of_accelerator(error):
        return MemoryFullError(
            f"{step}: the memory of the accelerator is full. {advice}, or take another device "
            "(SICSREC_DEVICE=cpu). Look with nvidia-smi whether something else uses it. What is "
            "finished is kept; run again to go on"
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return MemoryFullError(f"{step}: the memory of this machine is full. {advice}")
    if is_tracking_failure(error):
        return TrackingError(
            f"{step}: MLflow did not take a record: {first_line(error)}. Look after the "
            "server that MLFLOW_TRACKING_URI names; what is finished is kept, run again to go on"
        )
    hidden = without_passwords(str(error))
    if hidden != str(error):
        # Prefect repeats an error's words in the state of what failed.
        return SicsrecError(f"{step}: {type(error).__name__}: {hidden}")
    return None


def _is_of_accelerator(error: Exception) -> bool:
    # A step that never loaded torch cannot have run out of its memory.
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    # Where another process has filled it, it is the driver that says so.
    by_driver = isinstance(error, torch.AcceleratorError) and "out of memory" in str(error)
    return isinstance(error, torch.OutOfMemoryError) or by_driver


def _less_memory(step: str, config: PipelineConfig) -> str:
    """Return which values of a step make it take less memory, as the start of a sentence."""
    section = getattr(config, step)
    if step == "align_encoders":
        half = max(1, section.items_at_a_time // 2)
        helps = f"set align_encoders.items_at_a_time={half} (now {section.items_at_a_time})"
        if not section.gradient_cache:
            helps += (
                " and align_encoders.gradient_cache=true, which takes one more forward pass and "
                "leaves batch_size and result as they are"
            )
    elif step == "encode_items":
        half = max(1, section.batch_size // 2)
        helps = f"set encode_items.batch_size={half} (now {section.batch_size})"
    elif step in {"pretrain_id", "train_sicsrec"}:
        helps = (_TRAINING + _LARGE_CATALOGUE).format(step=step, **dict(section))
    elif step == "sample_pairs":
        helps = "take a smaller model, or a smaller batch_size of a model of transformers, as judge"
    else:
        helps = "give the run a machine with more memory"
    return helps[0].upper() + helps[1:]
