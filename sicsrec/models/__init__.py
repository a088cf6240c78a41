"""Sequence models: the ID encoder and SICSRec."""
