"""Readers of raw layouts: each turns a folder into raw items, interactions and cover paths."""
