"""Pictures of a training run."""

from collections.abc import Sequence

from matplotlib.figure import Figure

BLUE, ORANGE = "#0072B2", "#D55E00"


def plot_curves(log: Sequence[dict[str, float]], metric: str, best_epoch: int) -> Figure:
    """Draw training loss and one validation metric over the epochs.

    Args:
        log: per epoch ``epoch``, ``train/loss`` and ``valid/<metric>``.
        metric: name of the validation metric.
        best_epoch: marked with a line.
    """
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    losses, values = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in log]
    losses.plot(epochs, [record["train/loss"] for record in log], color=BLUE)
    losses.set(title="training loss", xlabel="epoch")
    values.plot(epochs, [record[f"valid/{metric}"] for record in log], color=ORANGE)
    values.axvline(best_epoch, color="grey", linestyle=":", label=f"best: epoch {best_epoch}")
    values.set(title=f"validation {metric}", xlabel="epoch")
    values.legend(frameon=False)
    for axes in (losses, values):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
