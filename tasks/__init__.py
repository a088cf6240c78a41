"""Prefect tasks: a name, a retry policy and one call of a step each."""
