"""The heap: one allocator for all memory of a world, over metadata that stands apart from the memory.

layout (arenas and where their metadata is), handlers (what an agent does for ranks that cannot map it),
report (usage, allocations, the text of out of memory), heap (the rank's own door). The allocator itself is
in kernels/heap/. Floor 3.
"""

from .heap import Heap
from .layout import Arena, ArenaKind, HeapLayout
from .report import WORLD, Allocation, ArenaUsage, OwnerUsage

__all__ = ["WORLD", "Allocation", "Arena", "ArenaKind", "ArenaUsage", "Heap", "HeapLayout", "OwnerUsage"]
