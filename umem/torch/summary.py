"""The pool's memory as a table in the style of torch.cuda.memory_summary."""

from __future__ import annotations

from ..heap import ArenaUsage
from ..units import format_size
from .layout import PAGE_NUM_ORPHANS, PAGE_NUM_REFUSED
from .pool import Pool, installed

_COLUMNS = ("home", "this rank", "all ranks", "in stock", "free", "longest piece")
HOME_WIDTH, _WIDTH = 16, 13


def memory_summary() -> str:
    """A table with a row for each arena of the world: the bytes that this rank and all ranks hold there, and free ones.

    "in stock" are free pieces that threads keep for their next allocations. Below stand this process's
    storages in the pool. Asks the agents of homes that are not mapped: call it from the main thread.
    """
    pool = installed()
    rule = "|" + "=" * (HOME_WIDTH + 2) + "|" + ("=" * (_WIDTH + 2) + "|") * (len(_COLUMNS) - 1)
    title = f"umem memory summary, rank {pool.space.rank} of {pool.space.num_ranks}"
    lines = [rule, f"| {title:<{len(rule) - 4}} |", rule, _line(_COLUMNS), rule.replace("=", "-")]
    lines += [_line(_cells(usage, pool.space.rank)) for usage in pool.heap.usage()]
    lines.append(rule)
    lines += [
        f"| {name:<{HOME_WIDTH}} | {value:>{len(rule) - HOME_WIDTH - 7}} |" for name, value in _counts(pool)
    ]
    return "\n".join([*lines, rule])


def _cells(usage: ArenaUsage, rank: int) -> tuple[str, ...]:
    own = usage.owners.get(rank)
    sizes = (
        own.asked_bytes if own else 0,
        usage.asked_bytes,
        sum(one.cached_bytes for one in usage.owners.values()),
        usage.free_bytes + usage.cut_free_bytes + usage.slab_free_bytes,
        usage.longest_free_bytes,
    )
    return (usage.arena.name, *map(format_size, sizes))


def _counts(pool: Pool) -> list[tuple[str, str]]:
    counters = pool.counters()
    return [
        ("live storages", str(pool.num_live())),
        ("in flight", str(pool.flights.collect())),
        ("allocations", f"{counters['allocations']}, {format_size(counters['bytes'])} in all"),
        ("spilled", str(counters["spilled"])),
        ("frees", str(counters["frees"])),
        ("frees refused", str(pool.page[PAGE_NUM_REFUSED])),
        ("left alone", str(pool.page[PAGE_NUM_ORPHANS])),
    ]


def _line(cells: tuple[str, ...]) -> str:
    first, *others = cells
    return f"| {first:<{HOME_WIDTH}} | " + " | ".join(f"{cell:>{_WIDTH}}" for cell in others) + " |"
