"""Paths as people write them, and as messages show them."""

import os
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


def nearest_existing(path: Path) -> Path:
    """Return a path, or where nothing is there, the nearest folder above it that is.

    What lies below a folder that may not be looked into counts as not there.
    """
    for place in (path, *path.parents):
        # Not Path.exists, which raises there.
        if os.path.exists(place):  # noqa: PTH110
            return place
    raise FileNotFoundError(path)


def printable(name: str) -> str:
    r"""Return the name of a file with bytes that are no UTF-8 as escapes; others stay as they are.

    Tables and terminals take no such names as they are.

    Example:
        >>> printable("covers/plat\udce9.jpg")
        'covers/plat\\xe9.jpg'
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def check_utf8(named: str, what: str) -> None:
    """Refuse a path whose name is no UTF-8, which no table, record or server can hold.

    Args:
        named: the path, as Python reads it from the operating system.
        what: what it is of, in the message.

    Raises:
        ConfigError: naming the path, with such bytes as escapes.
    """
    if (shown := printable(named)) != named:
        raise ConfigError(
            f"{what} is {shown}, whose name is not in UTF-8; rename the file or folder, as records "
            "and tables cannot hold such a name"
        )
