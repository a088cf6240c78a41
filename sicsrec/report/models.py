"""The models of a run, ready to rank, as the step ``evaluate`` ranked with them."""

from collections.abc import Callable
from typing import cast

from sicsrec.errors import LeakageError
from sicsrec.evaluation.ranking import Scorer
from sicsrec.evaluation.rivals import make_popularity, make_transitions
from sicsrec.models.base import SequenceModel
from sicsrec.models.blend_storage import load_blend
from sicsrec.models.sicsrec import SICSRec
from sicsrec.models.storage import load_model
from sicsrec.report.run_files import RunFiles
from sicsrec.steps.evaluate import (
    ID_ENCODER,
    POPULARITY,
    SICSREC,
    SICSREC_BLENDED,
    TRANSITIONS,
)

NEEDED = ("split/train", "pretrain_id/model", "train_sicsrec/model", "train_sicsrec/blend")


class RunModels:
    """Loads the models of a run, each once.

    Args:
        files: of a run that has all of :data:`NEEDED`.
        device: torch device the models run on.

    Raises:
        LeakageError: if a model has seen test targets: what it would recommend before them means
            nothing.
    """

    def __init__(self, files: RunFiles, device: str) -> None:
        for name in NEEDED[1:]:
            if "test" in files.refs[name].sees:
                raise LeakageError(f"{name} {files.refs[name].key} has seen the test targets")
        self._files = files
        self.id_encoder: SequenceModel = load_model(files.path("pretrain_id/model"), device)
        self.sicsrec = cast(SICSRec, load_model(files.path("train_sicsrec/model"), device))

    def scorers(self) -> dict[str, Callable[[], Scorer]]:
        """Return how to make each model, by its name in tables."""
        train, n_items = self._files.train, self._files.catalog.n_items
        return {
            POPULARITY: lambda: make_popularity(train, n_items),
            TRANSITIONS: lambda: make_transitions(train, n_items),
            ID_ENCODER: self.id_encoder.fixed,
            SICSREC: self.sicsrec.fixed,
            SICSREC_BLENDED: self.blend,
        }

    def blend(self) -> Scorer:
        """Return the blend of both models, counts and content."""
        folder = self._files.path("train_sicsrec/blend", "sicsrec")
        return load_blend(folder, [self.id_encoder, self.sicsrec])
