"""Pages from the templates of this package."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def new_environment() -> Environment:
    """Return what reads the templates.

    Titles come from strangers: whatever is not markup made by us is escaped.
    """
    return Environment(
        loader=PackageLoader("sicsrec.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True,
    )  # fmt: skip
