"""Sequence models: the ID encoder and SICSRec (METHOD 2)."""
