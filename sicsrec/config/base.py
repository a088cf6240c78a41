"""What all sections of the configuration share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]

NOT_FOR_THIS_DATA = "not_for_this_data"
"""Type of the validation error of a value that is right, but asks for data that there is not."""


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, docstrings become field descriptions.

    Numbers are finite: no other has a place in the JSON that keys are made of.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )
