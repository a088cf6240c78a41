"""YAML files that are part of the package: presets, sets of variants, ranges."""

from importlib import resources
from pathlib import Path

from sicsrec.errors import ConfigError


def shipped_names(kind: str) -> tuple[str, ...]:
    """Return the names of the files of one kind, each kind being a folder."""
    names = (Path(entry.name) for entry in (resources.files("flows") / kind).iterdir())
    return tuple(sorted(name.stem for name in names if name.suffix == ".yaml"))


def read_shipped(kind: str, name: str) -> str:
    """Return the text of one of them."""
    return (resources.files("flows") / kind / f"{name}.yaml").read_text("utf-8")


def is_file(path: Path) -> bool:
    """Return whether there is a file of the user's under this path.

    Raises:
        ConfigError: if nobody can tell: a folder above it is closed, or the name too long.
    """
    try:
        return path.is_file()
    except OSError as err:
        raise ConfigError(f"{path} cannot be read: {err.strerror}") from err


def read_file(path: Path) -> str:
    """Return the text of a file of the user's.

    Raises:
        ConfigError: if it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text("utf-8")
    except OSError as err:
        raise ConfigError(f"{path} cannot be read: {err.strerror}") from err
    except UnicodeDecodeError as err:
        line = err.object[: err.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from err


def read_shipped_or_file(kind: str, name: str, option: str, what: str) -> str:
    """Return the text of one of them, or of a file of the user's.

    Args:
        kind: folder of the shipped ones.
        name: of a shipped one, or path of a file.
        option: of the command line, which the message names.
        what: what the shipped ones are called, in the plural.

    Raises:
        ConfigError: if there is neither, naming the shipped ones, or the file cannot be read, or is
            not UTF-8.
    """
    if name in shipped_names(kind):
        return read_shipped(kind, name)
    if is_file(Path(name)):
        return read_file(Path(name))
    raise ConfigError(
        f"{option} {name}: there is no such file, and the {what} that are part of the package "
        f"are {', '.join(shipped_names(kind))}"
    )
