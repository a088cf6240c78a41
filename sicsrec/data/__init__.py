"""Tables of a dataset: reading, checking, splitting, and the forms that models read."""
