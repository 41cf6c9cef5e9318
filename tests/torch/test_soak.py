"""Four ranks allocate, fill, check, send and drop tensors at random homes; some die at random moments.

No leak, no corruption, no hang. The heap below alone, killed at every access: tests/kernels/heap/heap_soak.py.
"""

from __future__ import annotations

import pickle
import random
import signal
import time
import uuid
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: scripts/setup torch")

import torch

import umem
from umem.errors import NotAllocated, RankLost
from umem.torch import install, use_pool
from umem.torch.layout import PAGE_NUM_REFUSED
from umem.torch.pool import installed

from . import steps

NUM_RANKS = 4
WORK_S = 1.0
LEASE_S = 0.5
DEADLINE_S = 30.0
MAX_HELD = 40


class Worker:
    """One rank's part. Messages are files in a folder a rank: a death between two steps loses one at most."""

    def __init__(self, space: umem.Space, folder: Path, seed: int):
        self.space, self.folder = space, folder
        self.rng = random.Random(seed * NUM_RANKS + space.rank)
        self.held: list[torch.Tensor] = []
        self.num_steps = 0

    def run(self) -> None:
        """Work for WORK_S, and be rid of everything."""
        end_s = time.monotonic() + WORK_S
        while time.monotonic() < end_s:
            (action,) = self.rng.choices((self.make, self.drop, self.send, self.receive), (40, 25, 15, 20))
            action()
            self.num_steps += 1
        while self.held:
            self.drop()

    def make(self) -> None:
        """A tensor at a random home, full of a number that says whose it is."""
        if len(self.held) == MAX_HELD:
            return self.drop()
        homes = [*range(NUM_RANKS), "host", "striped"]
        try:
            with use_pool(self.rng.choice(homes), spill=("local",)):
                num_words = int(2 ** self.rng.uniform(1, 16))
                tensor = torch.full((num_words,), self.rng.randrange(1 << 60), dtype=torch.int64)
        except RankLost:
            return None
        except RuntimeError as error:
            # Tensors in flight fill the segments where the others are too slow to receive them, or have ended.
            assert "no room at home" in str(error)
            return self.drop()
        return self.held.append(tensor)

    def drop(self) -> None:
        """Check a tensor and let go of it."""
        if self.held:
            tensor = self.held.pop(self.rng.randrange(len(self.held)))
            assert bool((tensor == tensor[0]).all()), "a tensor holds another's words"

    def send(self) -> None:
        """Put a tensor's address where another rank finds it, all at once."""
        if self.held:
            receiver = self.folder / str(self.rng.randrange(NUM_RANKS))
            letter = receiver / uuid.uuid4().hex
            draft = letter.with_suffix(".draft")
            draft.write_bytes(ForkingPickler.dumps(self.rng.choice(self.held)))
            draft.rename(letter)

    def receive(self) -> None:
        """Take the first message that is there."""
        for letter in self.folder.joinpath(str(self.space.rank)).iterdir():
            if letter.suffix != ".draft":
                data = letter.read_bytes()
                letter.unlink()
                try:
                    tensor = pickle.loads(data)
                except (NotAllocated, RankLost):
                    return None  # it lay there for longer than its lease, or its sender has died
                assert bool((tensor == tensor[0]).all()), "a tensor arrives with another's words"
                return self.held.append(tensor)
        return None


def work(space: umem.Space, folder: str, seed: int, num_kills: int) -> dict[str, object]:
    """What a rank that lives on has to say; the last `num_kills` ranks, all but one or none, die before that."""
    install(space, lease_s=LEASE_S)
    before = owned(space)
    space.barrier()
    worker = Worker(space, Path(folder), seed)
    if space.rank >= NUM_RANKS - num_kills:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process wherever it is
        signal.setitimer(signal.ITIMER_REAL, worker.rng.uniform(0.05, 0.9 * WORK_S))
    worker.run()
    pool, deadline = installed(), time.monotonic() + DEADLINE_S
    while len(space.page.dead_ranks()) < num_kills:
        assert time.monotonic() < deadline, "a death is not noticed"
        time.sleep(0.01)
    time.sleep(LEASE_S)
    pool.flights.close()
    pool.threads.trim()
    space.heap.reclaim()
    space.heap.trim()
    return {
        "steps": worker.num_steps,
        "live": pool.num_live(),
        "refused": pool.page[PAGE_NUM_REFUSED],
        "left": owned(space) - before,
    }


def owned(space: umem.Space) -> set[tuple[int, int]]:
    """Allocations of this rank, and of the dead, in arenas that this rank looks after."""
    dead = space.page.dead_ranks()
    return {
        (one.address, one.generation)
        for one in space.heap.snapshot()
        if one.owner == space.rank or one.owner in dead
    }


def soak(tmp_path: Path, seed: int, num_kills: int) -> int:
    """One world; its survivors' steps."""
    folder = tmp_path / str(seed)
    for rank in range(NUM_RANKS):
        (folder / str(rank)).mkdir(parents=True)
    outcomes = umem.launch(
        work,
        ranks=NUM_RANKS,
        segment="128M",
        timeout_s=DEADLINE_S,
        on_failure="continue",
        results="all",
        args=(str(folder), seed, num_kills),
        preload=steps.PRELOAD,
    )
    survivors = outcomes[: NUM_RANKS - num_kills]
    for rank, told in enumerate(survivors):
        assert isinstance(told, dict), f"rank {rank} of seed {seed}: {told}"
    for rank, told in enumerate(survivors):
        num_left = len(told["left"])
        assert (told["live"], told["refused"], num_left) == (0, 0, 0), f"rank {rank} of seed {seed}: {told}"
    return sum(told["steps"] for told in survivors)


@pytest.mark.timeout(200)
def test_a_world_whose_ranks_die_leaves_nothing(tmp_path):
    assert soak(tmp_path, 0, NUM_RANKS - 1) > 100


@pytest.mark.soak
@pytest.mark.parametrize("num_kills", [0, NUM_RANKS - 1])
def test_worlds_leave_nothing(tmp_path, soak_factor, num_kills):
    num_worlds = 4 * soak_factor
    num_steps = sum(soak(tmp_path, seed, num_kills) for seed in range(1, 1 + num_worlds))
    print(f"{num_worlds} worlds, {num_worlds * num_kills} kills, {num_steps} steps of survivors")
