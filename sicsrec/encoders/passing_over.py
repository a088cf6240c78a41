"""A model's own forward pass with the blocks below its last one passed over.

Masks, positions, norms, poolers and projections are then made by the model itself, whichever it
has. What it reads only has the form of a batch, as the last block is given the states kept of one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from sicsrec.encoders.base import block_input
from sicsrec.errors import EncoderError

Substitute = Callable[[Tensor], Any]
"""Makes what stands for a block's output, given what the block would have read."""


def learn_substitutes(
    blocks: Sequence[nn.Module], forward: Callable[[], object]
) -> list[Substitute]:
    """See what blocks return and how to make the like without computing.

    Args:
        blocks: those that will be passed over.
        forward: runs the model on a batch of more than one item.

    Raises:
        EncoderError: if a block is not called, or returns what cannot be made for other batches.
    """
    found: dict[nn.Module, Substitute] = {}

    def see(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        found[block] = _substitute(output, block_input(args, kwargs))

    with ExitStack() as hooks:
        for block in blocks:
            hooks.callback(block.register_forward_hook(see, with_kwargs=True).remove)
        forward()
    if len(found) < len(blocks):
        raise EncoderError("the model does not call all of its blocks")
    return [found[block] for block in blocks]


def _substitute(output: Any, read: Tensor) -> Substitute:
    if output is None:
        return lambda _: None
    if isinstance(output, tuple):
        parts = [_substitute(part, read) for part in output]
        return lambda hidden: tuple(part(hidden) for part in parts)
    if not isinstance(output, Tensor) or len(output) != len(read):
        raise EncoderError("a block returns more than states of its items")
    if output.shape == read.shape:
        return lambda hidden: hidden
    # Images are all of one size, and so are the states of each stage of a hierarchical model.
    # Zeros, so that nothing of the batch seen here can be taken for something of another.
    shape = output.shape[1:]
    return lambda hidden: hidden.new_zeros(()).expand(len(hidden), *shape)


@contextmanager
def passing_over(
    blocks: Sequence[nn.Module],
    substitutes: Sequence[Substitute],
    last: nn.Module,
    states: Float[Tensor, "batch ..."],
) -> Iterator[None]:
    """Let a model compute nothing in some blocks and read ``states`` in its last one.

    Args:
        blocks: all below the last one.
        substitutes: what :func:`learn_substitutes` gave for them.
        last: the last block.
        states: what it reads.
    """

    def swap(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (states, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": states}

    with ExitStack() as changes:
        changes.callback(last.register_forward_pre_hook(swap, with_kwargs=True).remove)
        for block, substitute in zip(blocks, substitutes, strict=True):
            changes.enter_context(_replaced_forward(block, substitute))
        yield


@contextmanager
def _replaced_forward(block: nn.Module, substitute: Substitute) -> Iterator[None]:
    own = vars(block)
    # Most forwards are of the class; whoever put another one on the block itself gets it back.
    before = own.get("forward")
    own["forward"] = lambda *args, **kwargs: substitute(block_input(args, kwargs))
    try:
        yield
    finally:
        del own["forward"]
        if before is not None:
            own["forward"] = before
