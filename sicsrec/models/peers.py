"""The processes that train one model together, each on its rows of every batch.

A loss is a mean over the targets of the *whole* batch, whoever holds them. Gradients are averaged
over the processes, so each weighs the mean over its own targets by its share of them, times the
number of processes. Contrastive terms compare with the targets of the whole batch, gathered here.

This module says what a model may ask of its peers and answers for a process that has none;
:mod:`sicsrec.training.process_group` answers for several.
"""

from jaxtyping import Float, Int
from torch import Tensor


class Share:
    """What one process has of a batch's targets: all of them, if it is alone."""

    first = 0
    """Where its own targets begin among all, which are in the order of the processes."""

    def weigh(self, mean: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Turn the mean over its own targets into that whose mean over the processes is the mean
        over all targets; without a target of its own that is 0.
        """
        return mean

    def gather(self, rows: Float[Tensor, "own width"]) -> Float[Tensor, "all width"]:
        """Return the rows of all targets; gradients flow back to the processes they came from."""
        return rows

    def gather_numbers(self, numbers: Int[Tensor, " own"]) -> Int[Tensor, " all"]:
        """Return a number for each of all targets."""
        return numbers


class Peers:
    """A process that is alone."""

    rank = 0
    size = 1

    def share(self, n_targets: int) -> Share:  # noqa: ARG002
        """Say how many targets of a batch this process has, and learn of those of the others."""
        return Share()

    def same(self, numbers: Int[Tensor, " some"]) -> Int[Tensor, " some"]:
        """Return what the first process gives; all give equally many."""
        return numbers

    def average(self, values: Float[Tensor, "*some"]) -> Float[Tensor, "*some"]:
        """Return the mean over the processes."""
        return values

    def collect(self, state: Tensor) -> list[Tensor]:
        """Return this tensor of every process, by rank; all have one shape."""
        return [state]


ALONE = Peers()
