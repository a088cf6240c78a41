"""Prefect flows, deployments, presets and the command line."""
