"""Processes killed inside coherent accesses, while others use the same lines: sums stay exact, nobody hangs."""

from __future__ import annotations

import re

import pytest

from tests.kernels.heap.test_heap_soak import run


def kill(what: str, count: int, **options: object) -> str:
    """Run coherence_kills.py; its output."""
    done = run("-m", "tests.kernels.coherent.coherence_kills", what, str(count), **options)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_others_go_on_when_processes_die():
    kill("die_at_random", 3)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_two_hundred_random_kills(soak_factor):
    kill("die_at_random", 200 * soak_factor, timeout_s=600 * soak_factor)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_others_go_on_wherever_a_process_dies(soak_factor):
    kill("die_everywhere", 100 * soak_factor, build="faults", timeout_s=600 * soak_factor)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_kill_at_every_shared_access(soak_factor):
    """At every n-th under `make verify`, at every one under `make check-long`, for each protocol."""
    told = kill("kill_alone", 1500 * soak_factor, build="faults", timeout_s=600 * soak_factor)
    cut_short = [int(number) for number in re.findall(r"(\d+) writes cut short", told)]
    assert len(cut_short) == 3 and min(cut_short) > 0, "for each protocol"


PLANTED = {
    "a worker hangs": """
        kills.CoherentMemory.announce_death = lambda memory, rank: None
        kills.DEADLINE_S = 2.0
        kills.die_everywhere(100)
    """,
    "counter": """
        kills.Worker.note = lambda worker, index, value: worker.cache.change(
            worker.world.counter(index), operations.FETCH_ADD, 1, 0, 8
        )
        kills.die_at_random(2)
    """,
}


@pytest.mark.soak
@pytest.mark.parametrize("symptom", PLANTED)
def test_a_planted_bug_is_seen(symptom):
    """Kills that cannot fail prove nothing."""
    lines = [line[8:] for line in PLANTED[symptom].splitlines()]
    # A random moment is seldom one with a lock held: so the hang is looked for at one access after the other.
    build = "faults" if "everywhere" in PLANTED[symptom] else "normal"
    done = run(
        "-c", "\n".join(["import tests.kernels.coherent.coherence_kills as kills", *lines]), build=build
    )
    assert done.returncode != 0 and symptom in done.stderr, done.stderr
