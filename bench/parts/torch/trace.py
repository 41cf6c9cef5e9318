"""Which allocations a training step makes, in which order: the mix of sizes that a real user has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity, profile

from .trainer import Trainer

MEMORY_EVENT = "[memory]"


def of_step(model: str, seed: int) -> NDArray[np.int64]:
    """Entries (slot, bytes) and (slot, 0) of one step of training; see replay_loops.py.

    torch's profiler reports sizes, not addresses, so a free ends the youngest block of its size. Blocks that
    outlive the step, or are older, are left out: every slot is allocated once and freed once.
    """
    trainer = Trainer(model, seed)
    trainer.step()  # the first one also makes the optimizer's state
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        trainer.step()
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    events = recorded.profiler.kineto_results.events()
    changes = [event.nbytes() for event in events if event.name() == MEMORY_EVENT]
    return paired(changes)


def paired(changes: list[int]) -> NDArray[np.int64]:
    """Entries of a trace from signed sizes: `n` is an allocation, `-n` the end of one."""
    begun: dict[int, list[int]] = {}
    entries: list[tuple[int, int]] = []
    done: set[int] = set()
    for num_bytes in changes:
        if num_bytes > 0:
            begun.setdefault(num_bytes, []).append(len(entries))
            entries.append((len(entries), num_bytes))
        elif begun.get(-num_bytes):
            slot = begun[-num_bytes].pop()
            entries.append((slot, 0))
            done.add(slot)
    return np.array([entry for entry in entries if entry[0] in done], np.int64)
