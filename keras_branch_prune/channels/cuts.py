"""Joins layouts side by side, and finds the cuts that give several the same structure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from keras_branch_prune.channels.layouts import Block, Layout, Segment


def side_by_side(axis: int, layouts: Sequence[Layout]) -> Layout:
    """Returns the layout of tensors concatenated along their channel axis.

    Neighbouring blocks of one position become one block, so that one matrix of an expand map mixes
    all their channels. Blocks of several positions (a flattened tensor) stay apart.
    """
    blocks: list[Block] = []
    for block in (block for layout in layouts for block in layout.blocks):
        if blocks and blocks[-1].positions == block.positions == 1:
            block = Block(1, blocks.pop().segments + block.segments)
        blocks.append(block)
    return Layout(axis, tuple(blocks))


def wanted_cuts(layouts: Sequence[Layout]) -> list[tuple[str, int]] | None:
    """Returns the cuts that give all layouts the same structure.

    Args:
        layouts: Layouts of tensors of the same number of channels.

    Returns:
        Pairs `(group, channels before the cut)`: for one group of 6 channels, and two of 4 and 2
        side by side, `[(the first, 4)]`. `None` if no cuts do it: the blocks differ in positions or
        size, channels repeat differently, or some are attention heads.
    """
    shapes = {tuple((b.positions, b.channels) for b in layout.blocks) for layout in layouts}
    # A projection produces its heads as one segment, so that cuts of it would never be made.
    nested = any(segment.inner for layout in layouts for segment in layout.segments())
    if len(shapes) > 1 or nested:
        return None
    cuts: list[tuple[str, int]] = []
    for blocks in zip(*(layout.blocks for layout in layouts), strict=True):
        ends = sorted({end for block in blocks for end in block.ends()})
        pieces = [list(_pieces(block, ends)) for block in blocks]
        repeats = {tuple(segment.repeat for segment, _ in block) for block in pieces}
        if len(repeats) > 1:
            return None
        # As channels repeat equally often, no end lies between the copies of one.
        parted = itertools.chain(*pieces)
        cuts += [(s.group, end // s.repeat) for s, end in parted if end < s.size]
    return cuts


def cuts_at(layout: Layout, offsets: Sequence[int]) -> list[tuple[str, int]] | None:
    """Returns the cuts that make segments end at some offsets.

    Args:
        layout: The layout.
        offsets: Numbers of channels, ascending.

    Returns:
        Pairs `(group, channels before the cut)`, or `None` if no cuts do it: the tensor is
        flattened, or an offset lies between the copies of a channel or inside an attention head.
    """
    block, *others = layout.blocks
    if others or block.positions > 1:
        return None
    pieces = [(segment, end) for segment, end in _pieces(block, offsets) if end < segment.size]
    # For the heads see `wanted_cuts`.
    if any(segment.inner or end % segment.repeat for segment, end in pieces):
        return None
    return [(segment.group, end // segment.repeat) for segment, end in pieces]


def _pieces(block: Block, ends: Sequence[int]) -> Iterator[tuple[Segment, int]]:
    """Yields for every end the segment it falls into, and where in the segment."""
    starts = [0, *block.ends()]
    for segment, (start, stop) in zip(block.segments, itertools.pairwise(starts), strict=True):
        yield from ((segment, end - start) for end in ends if start < end <= stop)
