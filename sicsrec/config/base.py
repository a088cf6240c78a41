"""What all sections of the configuration share."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]

NOT_FOR_THIS_DATA = "not_for_this_data"
"""Type of the validation error of a value that is right, but asks for data that there is not."""

VARIANT_TAGS = ("kind", "library")
"""Fields that name the variant of a section."""


def is_other_variant(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether values name another variant of a section, and so replace all of the first."""
    return any(tag in new and tag in old and new[tag] != old[tag] for tag in VARIANT_TAGS)


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
