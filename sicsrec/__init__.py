"""sicsrec: raw video metadata, covers and watch histories to an evaluated, exported recommender.

The method is SICSRec (arXiv 2510.10556). Importing this package loads nothing heavy.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sicsrec.api import train
    from sicsrec.recommender import Recommender

__all__ = ["Recommender", "__version__", "train"]

try:
    __version__ = version("sicsrec")
except PackageNotFoundError:
    # A logged model carries a copy of the library that is not installed.
    __version__ = "not installed"

_HEAVY = {"train": "sicsrec.api", "Recommender": "sicsrec.recommender"}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is asked for."""
    if name not in _HEAVY:
        raise AttributeError(f"module 'sicsrec' has no attribute {name!r}")
    return getattr(importlib.import_module(_HEAVY[name]), name)
