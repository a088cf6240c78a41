"""The code of a logged model: MLflow runs this file where the model is loaded (models from code).

It lies beside the model's files in MLflow, with a copy of the library it imports. Nothing in the
library imports it.
"""

from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext
from pydantic import BaseModel, ConfigDict

from sicsrec.errors import SicsrecError
from sicsrec.recommender.service import RankingService


class NewItem(BaseModel):
    """A video that came after training."""

    model_config = ConfigDict(extra="forbid", strict=True)

    item_id: str
    text: str


class Request(BaseModel):
    """One request; see :mod:`sicsrec.recommender.service`. MLflow makes the signature of it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    user_id: str | None = None
    history: list[str] | None = None
    new_items: list[NewItem] | None = None


class Answer(BaseModel):
    """The answer to one request: items best first, or why there are none."""

    user_id: str | None = None
    item_ids: list[str]
    scores: list[float]
    ranked_by: str
    unknown_items: list[str]
    error: str | None = None


class SicsrecModel(PythonModel):  # type: ignore[misc]
    """Ranks items for users or histories."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the model folder beside the card."""
        self.service = RankingService.load(Path(context.artifacts["card"]).parent)

    def predict(
        self, model_input: list[Request], params: dict[str, Any] | None = None
    ) -> list[Answer]:
        """Answer requests, in their order.

        Args:
            model_input: the requests.
            params: ``k`` and ``remove_seen``; what is left out MLflow fills in from the signature,
                10 and what the export does.

        Raises:
            MlflowException: if a request is malformed.
        """
        settings = params or {}
        try:
            answers = self.service.answer(
                [request.model_dump() for request in model_input],
                settings.get("k", 10),
                remove_seen=settings.get("remove_seen", True),
            )
        except SicsrecError as err:
            raise MlflowException.invalid_parameter_value(str(err)) from err
        return [Answer(**answer) for answer in answers]


mlflow.models.set_model(SicsrecModel())
