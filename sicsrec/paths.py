"""Paths as people write them."""

from pathlib import Path

from sicsrec.errors import ConfigError


def expanded(named: str, what: str) -> Path:
    """Return a path without ~, which files that set variables, and a shell in quotes, leave in.

    Raises:
        ConfigError: if it names the home of somebody who has none; says what the path is of.
    """
    try:
        return Path(named).expanduser()
    except RuntimeError as err:
        raise ConfigError(f"{what} is {named}, but there is no such user; write the path") from err
