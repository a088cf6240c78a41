"""sicsrec: raw video metadata, covers and watch histories to an evaluated, exported recommender.

The method is SICSRec (arXiv 2510.10556). Importing this package loads nothing heavy.
"""

from importlib.metadata import version

__version__ = version("sicsrec")
