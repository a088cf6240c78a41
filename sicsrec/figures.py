"""Drawing figures, one at a time: Matplotlib must not draw in two threads at once."""

import io
import threading
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.figure import Figure

BLUE, ORANGE = "#0072B2", "#D55E00"
"""Of Okabe and Ito's palette, told apart by people with any colour vision."""

_turn = threading.Lock()


def draw(
    figure: Figure,
    kind: Literal["png", "svg"],
    parameters: dict[Any, Any] | None = None,
    **options: Any,
) -> bytes:
    """Return the content of a picture file.

    Args:
        figure: to draw; nothing may change it in the meantime.
        kind: of file.
        parameters: Matplotlib's, for this picture.
        options: of :meth:`matplotlib.figure.Figure.savefig`.
    """
    buffer = io.BytesIO()
    # The parameters are those of the whole process.
    with _turn, mpl.rc_context(parameters):
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()
