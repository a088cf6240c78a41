"""Positive and negative item pairs out of training histories, as a judge sees them."""
