"""What a search may try: dotted paths of the configuration, each with an interval or choices."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from sicsrec.config.base import PositiveFloat, Section
from sicsrec.errors import ConfigError

SEARCHED = ("sample_pairs", "align_encoders", "encode_items", "pretrain_id", "train_sicsrec")
"""Sections whose values may be searched: other ones change what is measured, not how well."""


class Interval(Section):
    """All numbers between two ends."""

    low: float
    """Lower end, included."""
    high: float
    """Upper end, included."""
    log: bool = False
    """Whether equal ratios are equally likely, not equal differences."""
    step: PositiveFloat | None = None
    """Distance of the values tried."""

    @model_validator(mode="after")
    def _is_one(self) -> "Interval":
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log: true needs a low above 0 and no step")
        return self

    def has(self, number: float) -> bool:
        """Whether a number lies between the ends, and on the grid that ``step`` makes."""
        if not self.low <= number <= self.high:
            return False
        # As they are written: in binary, 0.3 is no multiple of 0.1.
        exact, low = Decimal(str(number)), Decimal(str(self.low))
        return self.step is None or (exact - low) % Decimal(str(self.step)) == 0

    @property
    def has_whole_numbers(self) -> bool:
        """Whether both ends and the step are whole numbers."""
        return all(float(number).is_integer() for number in (self.low, self.high, self.step or 1))


class Range(Section):
    """One value that is searched, in one or more places that always have the same."""

    paths: tuple[str, ...]
    """Dotted paths, e.g. ``pretrain_id.dropout``."""
    interval: Interval | None = None
    """Numbers to choose from."""
    choices: tuple[Any, ...] = ()
    """Other values to choose from."""
    is_whole: bool = False
    """Whether only whole numbers of the interval are meant."""

    @property
    def name(self) -> str:
        """What tables and the study call it."""
        return ", ".join(self.paths)

    def ends(self) -> tuple[Any, ...]:
        """Return the values that are to be tried on the configuration before anything runs."""
        if self.interval is None:
            return self.choices
        ends = (self.interval.low, self.interval.high)
        return tuple(int(end) for end in ends) if self.is_whole else ends

    def fit(self, own: object) -> "Range":
        """Return the range with whole numbers only where the configuration takes no others.

        Args:
            own: a value that the configuration takes there; None says nothing of others.

        Raises:
            ConfigError: if the range names fractions where only whole numbers are possible.
        """
        if self.interval is None or own is None:
            return self
        is_whole = isinstance(own, int)
        if is_whole and not self.interval.has_whole_numbers:
            raise ConfigError(f"range of {self.name}: only whole numbers are possible there")
        return self.model_copy(update={"is_whole": is_whole})

    def holds(self, value: object) -> bool:
        """Whether a value is one of the range, on its grid where it has one."""
        if self.interval is None:
            return any(is_equal(value, choice) for choice in self.choices)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        if self.is_whole and not float(value).is_integer():
            return False
        return self.interval.has(float(value))


_Choices = Annotated[list[Any], Field(min_length=2)]
_VALUE: TypeAdapter[Interval | list[Any]] = TypeAdapter(Interval | _Choices)


def encode(value: object) -> str:
    """Return a choice as the study keeps it; a study takes no lists."""
    return json.dumps(value)


def is_equal(value: object, choice: object) -> bool:
    """Whether two values are one to the configuration: 0 is 0.0, but neither is False."""
    if isinstance(value, bool) or isinstance(choice, bool):
        return value is choice
    if isinstance(value, int | float) and isinstance(choice, int | float):
        return value == choice
    return encode(value) == encode(choice)


def parse_ranges(values: Mapping[Any, Any], where: str) -> tuple[Range, ...]:
    """Read ranges: each key one path or several with commas between, each value an interval
    (``{low, high}`` with ``log`` or ``step``) or a list of choices.

    Args:
        values: the content of a file.
        where: what messages call it.

    Raises:
        ConfigError: naming what is wrong.
    """
    ranges = []
    seen: set[str] = set()
    for key, value in values.items():
        paths = tuple(part.strip() for part in str(key).split(","))
        for path in paths:
            if path.split(".")[0] not in SEARCHED or path.count(".") == 0:
                raise ConfigError(
                    f"{where}: {path!r} cannot be searched; it must be a value of one of "
                    f"{', '.join(SEARCHED)}: what comes before says which data is used, what comes "
                    "after does not change the validation figure"
                )
            if path in seen:
                raise ConfigError(f"{where}: {path} is given twice")
            seen.add(path)
        try:
            parsed = _VALUE.validate_python(value)
        except ValidationError as err:
            faults = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in err.errors())
            raise ConfigError(
                f"{where}: {key}: write {{low: ..., high: ...}}, with log: true or step: ..., or a "
                f"list of at least two choices; found {value!r} ({faults})"
            ) from err
        if isinstance(parsed, Interval):
            is_whole = parsed.has_whole_numbers and not parsed.log
            ranges.append(Range(paths=paths, interval=parsed, is_whole=is_whole))
        else:
            ranges.append(Range(paths=paths, choices=tuple(parsed)))
    if not ranges:
        raise ConfigError(f"{where} holds no range")
    return tuple(ranges)
