"""Workers obey, sleep between commands, and die loudly."""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import pytest

from umem.bench.harness.wire import Group, Part, WorkerError
from umem.errors import AlignmentError, RankLost, WaitTimeout

HERE = os.path.dirname(os.path.abspath(__file__))
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def command(path):
    return [sys.executable, os.path.join(HERE, "worker.py"), path, "2"]


@pytest.fixture
def group():
    with Group("two workers", command, 2) as started:
        yield started


def test_every_worker_answers_in_order_of_its_rank(group):
    part = Part(group, "worker:Echo", word="hello")
    part.open()
    assert part.call("say", 3) == ["hello 0 3", "hello 1 3"]
    assert part.call("say", 4, only=1) == ["hello 1 4"]
    part.close()


def test_a_part_lives_as_long_as_one_of_its_users(group):
    part = Part(group, "worker:Echo", word="x")
    part.open()
    part.open()
    part.close()
    assert part.call("say", 1, only=0) == ["x 0 1"]
    part.close()
    with pytest.raises(WorkerError, match="KeyError"):
        part.call("say", 1)


def test_arrays_travel(group):
    part = Part(group, "worker:Echo", word="x")
    part.open()
    assert part.call("ramp", 4)[1].tolist() == np.arange(4.0).tolist()


def test_a_typed_error_arrives_as_itself(group):
    part = Part(group, "worker:Echo", word="x")
    part.open()
    with pytest.raises(AlignmentError, match="0x3 is not 8-byte aligned"):
        part.call("misaligned")
    assert part.call("say", 1, only=0) == ["x 0 1"]


def test_of_two_errors_the_cause_is_told_and_not_the_timeout_behind_it(group):
    part = Part(group, "worker:Echo", word="x")
    part.open()
    with pytest.raises(AlignmentError):
        part.call("fail_by_rank")
    with pytest.raises(WaitTimeout, match="the other does not answer"):
        part.call("fail_by_rank", only=0)


def test_any_other_error_arrives_with_its_traceback(group):
    part = Part(group, "worker:Echo", word="x")
    part.open()
    with pytest.raises(WorkerError, match="ZeroDivisionError"):
        part.call("divide", 0)


def test_a_worker_that_dies_is_named_and_ends_the_group(group):
    part = Part(group, "worker:Echo", word="x")
    part.open()
    with pytest.raises(RankLost) as caught:
        part.call("die", only=1)
    assert caught.value.rank == 1
    assert not group.is_alive
    part.close()


def test_a_worker_that_does_not_answer_in_time_ends_the_group(group):
    part = Part(group, "worker:Echo", word="x")
    part.open()
    group.call_timeout_s = 0.1
    with pytest.raises(WaitTimeout, match=r"ranks \[1\] did not answer within 0.1 s"):
        part.call("doze", 0.5, only=1)
    assert group.has_died
    part.close()


def test_workers_that_are_not_called_burn_no_cpu(group):
    part = Part(group, "worker:Echo", word="x")
    part.open()
    before = [cpu_s(pid) for pid in group.pids]
    time.sleep(0.5)
    after = [cpu_s(pid) for pid in group.pids]
    assert max(b - a for a, b in zip(before, after, strict=True)) <= 2 * TICK_S


def test_a_program_that_does_not_start_is_reported_with_its_output():
    def broken(path):
        return [sys.executable, "-c", "raise SystemExit('no such luck')"]

    with pytest.raises(WorkerError, match="no such luck"):
        Group("a broken program", broken, 2).start()


def test_closing_ends_the_workers(group):
    pids = group.pids
    group.close()
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


def cpu_s(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S
