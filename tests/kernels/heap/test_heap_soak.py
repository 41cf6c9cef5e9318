"""Four processes at work on one heap, alive and killed: no leak, no corruption, no hang."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(*command: str, build: str = "", timeout_s: float = 110) -> subprocess.CompletedProcess[str]:
    """Run Python on heap_soak.py in a process of its own: it maps memory and forks."""
    environment = os.environ | ({"UMEM_BUILD": build} if build else {})
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def soak(what: str, count: int, **options: object) -> None:
    done = run("-m", "tests.kernels.heap.heap_soak", what, str(count), **options)
    print(done.stdout)
    assert done.returncode == 0, done.stderr


def test_processes_allocate_share_and_drop():
    soak("live", 5_000)


def test_others_go_on_when_processes_die():
    soak("die_at_random", 4)


def test_others_go_on_wherever_a_process_dies():
    soak("die_everywhere", 4, build="faults")


@pytest.mark.soak
def test_a_million_operations(soak_factor):
    soak("live", 1_000_000 * soak_factor, timeout_s=600 * soak_factor)


@pytest.mark.soak
def test_two_hundred_random_kills(soak_factor):
    soak("die_at_random", 200 * soak_factor, timeout_s=600 * soak_factor)


@pytest.mark.soak
def test_a_kill_at_every_shared_access(soak_factor):
    """At every twentieth under `make verify`, at every one under `make check-long`."""
    soak("die_everywhere", 200 * soak_factor, build="faults", timeout_s=600 * soak_factor)


PLANTED = {
    "references that nobody dropped": """
        let_go = soak.Worker.let_go
        def forget(worker, address):
            worker.held.pop(address) if worker.rng.random() < 0.01 else let_go(worker, address)
        soak.Worker.let_go = forget
        soak.live(3000)
    """,
    "usage of every owner is zero": """
        soak.Worker.flush = lambda worker: None
        soak.live(3000)
    """,
    "Block(": """
        soak.Block.fill = lambda block: soak.host.view(block.address, block.num_bytes + 64).fill(7)
        soak.live(3000)
    """,
    "the sender lives and holds it": """
        soak.Worker.drop = lambda worker: worker.held and worker.let_go(worker.rng.choice([*worker.held]))
        soak.live(20_000)
    """,
    "the dead own nothing": """
        soak.HeapMemory.reclaim = lambda memory, rank: [0, 0, 0]
        soak.die_at_random(3)
    """,
    "a worker hangs": """
        soak.Worker.take = lambda worker: soak.time.sleep(2)
        soak.die_at_random(1)
    """,
}


@pytest.mark.soak
@pytest.mark.parametrize("symptom", PLANTED)
def test_a_planted_bug_is_seen(symptom):
    """A soak that cannot fail proves nothing."""
    lines = [line[8:] for line in PLANTED[symptom].splitlines()]
    done = run(
        "-c", "\n".join(["import tests.kernels.heap.heap_soak as soak", "soak.DEADLINE_S = 1.0", *lines])
    )
    assert done.returncode != 0 and symptom in done.stderr, done.stderr
