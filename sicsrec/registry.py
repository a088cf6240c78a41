"""A table of named components that are imported on first use."""

import importlib
from collections.abc import Mapping

from sicsrec.errors import ConfigError


class Registry:
    """Maps a name to ``"module:object"`` and imports the object when it is asked for.

    Args:
        kind: what the names stand for, in the singular; used in error messages.
        entries: name to ``"module:object"``.
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def names(self) -> tuple[str, ...]:
        """Return all names in the order in which they were given."""
        return tuple(self._entries)

    def get(self, name: str) -> object:
        """Import and return the object registered under ``name``.

        Raises:
            ConfigError: if no such name exists; the message lists those that do.
        """
        if name not in self._entries:
            known = ", ".join(self._entries)
            raise ConfigError(f"unknown {self.kind} {name!r}; known: {known}")
        module, _, attribute = self._entries[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
