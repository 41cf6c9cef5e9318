"""`launch`: functions go out, results and exceptions come back, and nothing is left."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from tests import error_samples
from tests.launching import has_ended
from tests.world import rank_functions
from umem.errors import LaunchError, RankLost, UnknownName, WorldError
from umem.world import WorldSpec
from umem.world.job import FIRST_RESULT, Failure, Job, Outcome
from umem.world.launcher import run_job


def test_a_fork_of_a_rank_does_not_speak_for_it(run_bare):
    def work(world, ends_by_error):
        pid = os.fork()
        if pid == 0:
            if ends_by_error:
                raise ValueError("of a child")
            return "a child's"
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert run_bare(work, 2, args=(False,)) == [0, 0]
    assert run_bare(work, 2, args=(True,)) == [1, 1]


def test_results_of_all_ranks_and_of_the_first(run_bare):
    assert run_bare(lambda world, factor: world.rank * factor, 3, args=(10,)) == [0, 10, 20]
    first = Job(WorldSpec.of(3), on_space=False, results=FIRST_RESULT)
    assert run_job(first, lambda world: world.num_ranks, ()) == 3
    with pytest.raises(UnknownName, match="all"):
        run_job(Job(WorldSpec.of(1), results="some"), lambda world: None, ())


def test_an_open_space_is_what_a_launched_function_gets(run_world):
    assert run_world(lambda space: (space.rank, space.num_ranks), 2) == [(0, 2), (1, 2)]


def test_a_large_result_travels_whole(run_bare):
    big = os.urandom(5_000_000)
    assert run_bare(lambda world: big, 2) == [big, big]


def test_functions_of_main_travel_as_from_a_notebook():
    """The program has no file, so its functions can only travel by value."""
    program = """
        import dataclasses, sys
        from umem.world import WorldSpec
        from umem.world.job import Job
        from umem.world.launcher import run_job

        @dataclasses.dataclass
        class Answer:
            rank: int

        def helper(world):
            return Answer(world.rank)

        def work(world):
            return helper(world)

        print(run_job(Job(WorldSpec.of(2), on_space=False, results="all"), work, ()))
    """
    source = textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-"], input=source, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[Answer(rank=0), Answer(rank=1)]\n", done.stderr


def test_what_ranks_print_appears_here_marked(run_bare, capsys):
    def work(world):
        print("out", world.rank)
        print("err", world.rank, file=sys.stderr)
        os.write(1, b"unfinished")

    run_bare(work, 2)
    out, err = capsys.readouterr()
    assert sorted(out.splitlines()) == ["[0] out 0", "[0] unfinished", "[1] out 1", "[1] unfinished"]
    assert sorted(err.splitlines()) == ["[0] err 0", "[1] err 1"]


def test_environment_and_preload(run_bare):
    spec = WorldSpec.of(1)
    job = Job(spec, on_space=False, environment={"COLOUR": "blue"}, preload=("wave",))
    assert run_job(job, lambda world: (os.environ["COLOUR"], "wave" in sys.modules), ()) == ("blue", True)
    assert run_bare(lambda world: "wave" in sys.modules, 1) == [False]


def test_a_preloaded_module_that_starts_threads_is_refused(tmp_path, monkeypatch):
    (tmp_path / "starts_a_thread.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WorldError, match="2 threads"):
        run_job(Job(WorldSpec.of(1), on_space=False, preload=("starts_a_thread",)), print, ())


def test_ranks_draw_different_random_numbers():
    """Although the parent had both generators, seeded, before it forked."""

    def work(world):
        import random

        import numpy as np

        return world.exchange("numbers", repr((random.random(), np.random.random())).encode())

    job = Job(WorldSpec.of(2), on_space=False, preload=("random", "numpy.random"))
    first, second = (ast.literal_eval(blob.decode()) for blob in run_job(job, work, ()))
    assert first[0] != second[0] and first[1] != second[1]


def test_launch_works_from_any_thread(run_bare):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(run_bare(lambda world: world.num_ranks, 2)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [[2, 2]] * 2


def test_a_rank_may_launch_a_world_of_its_own(run_bare):
    def work(world):
        inner = Job(WorldSpec.of(2), on_space=False)
        return world.rank, run_job(inner, lambda inside: inside.num_ranks, ())

    assert run_bare(work, 2) == [(0, 2), (1, 2)]


# --- failures


class UnpicklableError(Exception):
    """An exception that cannot travel."""

    def __reduce__(self):
        raise TypeError("no")


def test_the_ranks_own_exception_comes_back_with_its_traceback(run_bare):
    def fail_in_one(world):
        if world.rank == 1:
            raise KeyError("which", 42)
        world.exchange("others wait", b"")

    with pytest.raises(KeyError) as caught:
        run_bare(fail_in_one, 3)
    cause = caught.value.__cause__
    assert caught.value.args == ("which", 42)
    assert isinstance(cause, LaunchError) and (cause.rank, cause.exit_code) == (1, 1)
    assert "in fail_in_one" in str(cause) and "KeyError: ('which', 42)" in str(cause)
    assert "ranks.py" not in str(cause), "the traceback starts at the user's first frame"


def test_errors_of_umem_keep_their_attributes(run_bare):
    def work(world):
        raise RankLost(3, "told by a test")

    with pytest.raises(RankLost, match="rank 3 is dead: told by a test") as caught:
        run_bare(work, 1)
    assert caught.value.rank == 3


def test_every_error_of_umem_comes_back_as_itself(run_bare):
    """One world in which each rank raises an error of a kind of its own."""

    def work(world):
        raise error_samples.sample(error_samples.kinds()[world.rank])

    expected = [error_samples.sample(kind) for kind in error_samples.kinds()]
    arrived = run_bare(work, len(expected), on_failure="continue")
    assert [error_samples.told_by(error) for error in arrived] == [*map(error_samples.told_by, expected)]


def test_an_exception_that_cannot_travel_is_told_in_text(run_bare):
    def work(world):
        raise UnpicklableError("but legible")

    with pytest.raises(LaunchError, match="UnpicklableError: but legible"):
        run_bare(work, 1)


def test_an_unpicklable_result_is_an_error_and_no_hang(run_bare):
    with pytest.raises(TypeError, match="pickle"):
        run_bare(lambda world: threading.Lock(), 1)


@pytest.mark.parametrize(
    ("end", "exit_code", "text"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), 137, "killed by SIGKILL"),
        (lambda: sys.exit(5), 5, "exit code 5"),
        (lambda: os._exit(0), 0, "before its function returned"),
    ],
)
def test_a_rank_that_ends_without_a_word(run_bare, end, exit_code, text):
    def work(world):
        if world.rank == 1:
            end()
        world.exchange("others wait", b"")

    with pytest.raises(LaunchError, match=text) as caught:
        run_bare(work, 2)
    assert (caught.value.rank, caught.value.exit_code) == (1, exit_code)


def test_a_rank_that_dies_before_it_joins_is_the_cause(run_bare, tmp_path, monkeypatch):
    """Unpickling the function kills rank 1, before any line of the world runs in it."""
    (tmp_path / "deadly.py").write_text(
        "import os\nif os.environ['UMEM_RANK'] == '1':\n    os.kill(os.getpid(), 9)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    class Poison:
        def __reduce__(self):
            return __import__, ("deadly",)

    with pytest.raises(LaunchError, match="SIGKILL") as caught:
        run_bare(lambda world, poison: None, 3, args=(Poison(),))
    assert caught.value.rank == 1


def test_the_last_words_of_a_rank_are_heard_although_its_death_is_seen_first():
    program = """
        from umem.world.frames import Kind
        from umem.world.spec import WorldSpec
        from umem.world.supervisor import Supervisor

        class SeesDeathFirst(Supervisor):
            def _on_stream(self, child, events):
                pass

            def _on_output(self, child, read_end, events, is_last=False):
                if is_last:
                    super()._on_output(child, read_end, events, is_last)

        def work(rank, channel):
            print("last words")
            channel.send(Kind.RESULT, b"last result", 10)
            return 0

        print(SeesDeathFirst(WorldSpec.of(1), work, needs_results=True).run().results)
    """
    source = textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[0] last words\n{0: b'last result'}\n", done.stderr


def test_a_failure_is_kept_although_the_rank_was_being_ended():
    """Rank 1 ends with 7 on SIGTERM, which is its own failure; rank 2 is ended by it, which is none."""
    program = """
        import os, signal, sys, threading
        from umem.world import supervisor
        from umem.world.spec import WorldSpec

        supervisor.GRACE_S = 0.0
        read_end, write_end = os.pipe()

        def work(rank, channel):
            if rank == 0:
                os.read(read_end, 1)
                return 3
            if rank == 1:
                signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
                os.write(write_end, b"x")
            threading.Event().wait()

        outcome = supervisor.Supervisor(WorldSpec.of(3), work, needs_results=False).run()
        print(sorted((failure.rank, failure.exit_code) for failure in outcome.failures))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[(0, 3), (1, 7)]\n", done.stderr


def test_a_consequence_that_arrives_first_is_not_the_cause():
    lost, own = Failure(0, is_consequence=True), Failure(1)
    assert Outcome(failures=[lost, own]).cause is own
    assert Outcome(failures=[lost]).cause is lost
    assert Outcome().cause is None


def test_survivors_go_on_where_asked(run_bare):
    def work(world):
        if world.rank == 0:
            raise ValueError("only rank 0")
        return world.rank

    results = run_bare(work, 3, on_failure="continue")
    assert isinstance(results[0], ValueError) and results[1:] == [1, 2]
    job = Job(WorldSpec.of(2, on_failure="continue"), on_space=False)
    assert run_job(job, lambda world: 1 // (1 - world.rank), ()) == 1, (
        "the first rank's, though another failed"
    )
    with pytest.raises(ValueError, match="only rank 0"):
        run_job(job, work, ())


def test_a_survivor_that_hears_nothing_is_ended(run_bare, tmp_path):
    def work(world):
        pids = tmp_path / str(world.rank)
        pids.write_text(str(os.getpid()))
        world.exchange("both have said who they are", b"")
        if world.rank == 1:
            raise ValueError("the cause")
        threading.Event().wait()

    with pytest.raises(ValueError, match="the cause"):
        run_bare(work, 2)
    assert all(has_ended(int((tmp_path / str(rank)).read_text()), 0) for rank in range(2))


CALLER = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born ignoring it
from umem.world import WorldSpec
from umem.world.job import Job
from umem.world.launcher import run_job

def work(world):
    world.exchange("all are here", b"")
    print("pid", os.getpid(), flush=True)
    time.sleep(1000)

run_job(Job(WorldSpec.of(2), on_space=False), work, ())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ranks_end_with_their_caller(number):
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        pids = [int(caller.stdout.readline().split()[-1]) for _ in range(2)]
        caller.send_signal(number)
        _, errors = caller.communicate(timeout=30)
    finally:
        caller.kill()
    assert caller.returncode == -number
    assert all(has_ended(pid, 10) for pid in pids)
    assert number == signal.SIGKILL or errors.rstrip().endswith("KeyboardInterrupt")


# --- two worlds in one process


def test_a_process_is_in_one_world_at_a_time(run_bare, world_kind):
    assert (
        run_bare(rank_functions.join_twice, 2, world_kind)
        == [["WorldError", "joined again", "ForkedRank"]] * 2
    )


def test_no_rank_of_a_world_that_could_not_be_made_is_left(run_bare, monkeypatch, why_no_hosts):
    with pytest.raises(WorldError, match="at most"):
        run_bare(lambda world: None, 300, "hosts", hosts=300)
