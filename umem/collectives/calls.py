"""What is called, in words: for errors that name both sides."""

from __future__ import annotations

from ..kernels.collective import layout
from ..kernels.data.reduce import OPERATION_NAMES
from .buffers import ELEMENT_NAMES

CALL_NAMES = {
    layout.BARRIER: "barrier",
    layout.ALL_REDUCE: "all_reduce",
    layout.REDUCE_TO_ROOT: "reduce",
    layout.REDUCE_SCATTER: "reduce_scatter",
    layout.ALL_GATHER: "all_gather",
    layout.GATHER: "gather",
    layout.BROADCAST: "broadcast",
    layout.SCATTER: "scatter",
    layout.ALL_TO_ALL: "all_to_all",
    layout.ALL_TO_ALL_V: "all_to_all_v",
}


def in_words(call: int, num_bytes: int) -> str:
    """A call word and a length, as a program would have written them."""
    flags = call & layout.CALL_KIND_MASK
    if flags == layout.BARRIER:
        return CALL_NAMES[flags]
    root = call >> layout.ROOT_SHIFT & layout.CALL_ROOT_MASK
    told = [ELEMENT_NAMES[call >> layout.ELEMENT_SHIFT & layout.CALL_KIND_MASK]]
    if flags & layout.REDUCES:
        told.insert(0, OPERATION_NAMES[call >> layout.REDUCTION_SHIFT & layout.CALL_KIND_MASK])
    if not flags & layout.VARIES:
        told.append(f"{num_bytes} bytes{' a rank' if flags & (layout.PERSONAL | layout.COLLECTS) else ''}")
    if flags & (layout.FROM_ROOT | layout.TO_ROOT):
        told.append(f"root {root}")
    return f"{CALL_NAMES[flags]}({', '.join(told)})"
