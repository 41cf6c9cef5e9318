"""`umem run`: a script in every rank; output, exit codes, signals, and nothing left behind."""

from __future__ import annotations

import re
import signal
import subprocess

import pytest

from tests.launching import has_ended, umem_command
from tests.leftovers import files_left, shared_memory_files

# What a script says before it waits, so that a test knows whom to look for.
SAY_PID = """
import os, signal, sys, time
from umem.world import join
world = join()
world.exchange("all are here", b"")
print("pid", os.getpid(), flush=True)
"""


SAY_PID_IN_A_SPACE = """
import os, umem
space = umem.init()
print("pid", os.getpid(), flush=True)
if space.rank > 0:
    space.world.get("nobody sets this", 1000)
space.barrier(1000)
"""


def pids_said(process: subprocess.Popen[str], num_ranks: int) -> list[int]:
    """The ranks' pids, read from their output; the test's own time limit bounds the wait."""
    pids: list[int] = []
    while len(pids) < num_ranks:
        line = process.stdout.readline()
        assert line, f"ended early with {process.wait(10)}"
        pids += [int(pid) for pid in re.findall(r"pid (\d+)", line)]
    return pids


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_a_script_runs_in_every_rank(run_script, ranks):
    done = run_script(
        """
        import os, sys
        print(__name__, os.path.basename(__file__), sys.argv[1:], os.environ["UMEM_RANK"])
        sys.stderr.write("half a line")
        """,
        "-n",
        ranks,
        arguments=("--", "-a", "two words"),
    )
    assert done.returncode == 0, done.stderr
    expected = [f"[{rank}] __main__ script.py ['-a', 'two words'] {rank}" for rank in range(ranks)]
    assert sorted(done.stdout.splitlines()) == expected
    assert sorted(done.stderr.splitlines()) == [f"[{rank}] half a line" for rank in range(ranks)]


def test_ranks_of_a_script_join_one_world(run_script, world_kind):
    done = run_script(
        """
        import umem
        with umem.init() as space:
            print(space.rank, space.num_ranks, space.world.spec.kind, space.world.spec.segment_bytes)
        """,
        *("-n", 2, "--world", world_kind, "--segment", "64M"),
        for_space=True,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        f"[{rank}] {rank} 2 {world_kind} {64 << 20}" for rank in range(2)
    ]


def test_a_script_may_join_twice_and_import_its_neighbours(run_script, tmp_path):
    (tmp_path / "neighbour.py").write_text("value = 42\n")
    done = run_script(
        """
        import neighbour
        from umem.world import join
        for stay in range(2):
            with join() as world:
                print(world.exchange("key", b"%d" % neighbour.value))
        """,
        *("-n", 2),
    )
    assert done.stdout.count("[b'42', b'42']") == 4, done.stderr


def test_a_module_runs_by_name(tmp_path):
    command = umem_command("run", "-n", 2, "-m", "this")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path)
    assert done.stdout.count("The Zen of Python") == 2


def test_exit_handlers_run_in_the_parent_as_in_the_rank(run_script, tmp_path):
    """What `umem run` loaded is not taken apart at its end; what asked to be called then is called."""
    (tmp_path / "heir.py").write_text("import atexit\natexit.register(print, 'handled', flush=True)\n")
    done = run_script("print('ran')", "-n", 1, "--preload", "heir", "--no-prefix")
    assert (done.returncode, done.stdout.split()) == (0, ["ran", "handled", "handled"]), done.stderr


def test_modules_of_the_current_folder_run_and_import_as_python_m_has_it(tmp_path):
    package = tmp_path / "parts"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "whole.py").write_text(
        "import sys\nfrom . import piece\nimport beside\nprint(__name__, __package__, piece.value, sys.argv[1:])\n"
    )
    (package / "piece.py").write_text("value = 7\n")
    (package / "__main__.py").write_text("from .whole import *\nprint(__name__, __package__)\n")
    (tmp_path / "beside.py").write_text("")

    def said(*arguments: str) -> list[str]:
        command = umem_command("run", "-n", 1, *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    assert said("-m", "parts.whole", "--", "-n", "5") == ["[0] __main__ parts 7 ['-n', '5']"]
    assert said("--preload", "beside", "-m", "parts") == ["[0] parts.whole parts 7 []", "[0] __main__ parts"]


def test_a_folder_with_a_main_module_is_a_program(tmp_path):
    (tmp_path / "__main__.py").write_text("import beside\nprint(__name__, beside.value)\n")
    (tmp_path / "beside.py").write_text("value = 7\n")
    command = umem_command("run", "-n", 1, tmp_path)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "[0] __main__ 7\n", done.stderr


def test_output_without_marks(run_script, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    done = run_script("print('plain')", "-n", 2, "--no-prefix")
    assert (done.returncode, done.stdout) == (0, "plain\nplain\n")


def test_rank_0_reads_what_is_piped_in(run_script):
    done = run_script("import sys; print(repr(sys.stdin.read()))", "-n", 2, input="for rank 0")
    assert sorted(done.stdout.splitlines()) == ["[0] 'for rank 0'", "[1] ''"]


# --- failures


def test_the_first_failure_gives_the_exit_code_and_ends_the_others(run_script):
    done = run_script(SAY_PID + "sys.exit(7) if world.rank == 1 else world.exchange('never', b'')", "-n", 3)
    assert done.returncode == 7
    assert "umem run: rank 1 ended with exit code 7" in done.stderr
    assert "RankLost: rank 1 is dead" in done.stderr, "the others are told why before they are ended"
    assert all(has_ended(int(pid), 0) for pid in re.findall(r"pid (\d+)", done.stdout))


def test_an_exception_is_shown_as_python_shows_it(run_script):
    done = run_script("def broken():\n    raise ValueError('on purpose')\nbroken()", "-n", 1)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "[0] Traceback (most recent call last):" and "script.py" in lines[1]
    assert "[0] ValueError: on purpose" in lines


def test_a_rank_that_dies_at_start_up(run_script):
    source = (
        "import os\nif os.environ['UMEM_RANK'] == '1':\n    os.kill(os.getpid(), 9)\nimport umem\numem.init()"
    )
    done = run_script(source, "-n", 3, "--segment", "64M", for_space=True)
    assert done.returncode == 137
    assert "umem run: rank 1 was killed by SIGKILL" in done.stderr
    assert "RankLost: rank 1 is dead" in done.stderr


def test_the_others_go_on_where_asked(run_script):
    source = SAY_PID + "if world.rank == 0: sys.exit(3)\ntime.sleep(0.1)\nprint('survived')"
    done = run_script(source, "-n", 3, "--keep-going")
    assert done.returncode == 3
    assert sorted(line for line in done.stdout.splitlines() if "survived" in line) == [
        "[1] survived",
        "[2] survived",
    ]


def test_a_rank_that_ignores_sigterm_is_killed(run_script):
    wait = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nworld.exchange('set', b'')\nsignal.pause()"
    source = SAY_PID + f"if world.rank == 1:\n    world.exchange('set', b'')\n    sys.exit(4)\n{wait}"
    done = run_script(source, "-n", 2, times=["GRACE_S=0.2", "KILL_AFTER_S=0.2"])
    assert done.returncode == 4
    assert all(has_ended(int(pid), 0) for pid in re.findall(r"pid (\d+)", done.stdout))


def test_what_a_rank_started_ends_with_it(run_script):
    """A child that holds the rank's output open, and one that never stops writing to it.

    The rank says a pid in one write: with PYTHONUNBUFFERED set, print makes four of a line, and `yes`, which writes to
    the same pipe, may come between them.
    """
    source = """
        import os, subprocess
        for command in (["sleep", "1000"], ["yes", "x" * 1000]):
            os.write(1, b"pid %d\\n" % subprocess.Popen(command).pid)
        os.write(2, b"unfinished")
    """
    done = run_script(source, "-n", 2)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stderr.splitlines()) == ["[0] unfinished", "[1] unfinished"]
    children = [int(pid) for pid in re.findall(r"pid (\d+)", done.stdout)]
    assert len(children) == 4, f"{len(done.stdout)} characters, the last: {done.stdout[-200:]}"
    assert [pid for pid in children if not has_ended(pid, 30)] == []


# --- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_every_rank_and_ends_the_world(start_script, number):
    process = start_script(SAY_PID + "world.get('nobody sets this', timeout_s=1000)", "-n", 3)
    pids = pids_said(process, 3)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    if number == signal.SIGINT:
        assert output.count("] KeyboardInterrupt") == 3, "each rank says where it was"
    assert all(has_ended(pid, 0) for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_space_leaves_nothing_behind_whatever_ends_the_command(start_script, world_kind, number):
    """Rank 0 is in a compiled wait; UCX has its shared memory in /dev/shm meanwhile."""
    before = shared_memory_files()
    options = ("-n", 2, "--world", world_kind, "--segment", "64M")
    process = start_script(SAY_PID_IN_A_SPACE, *options, for_space=True)
    pids = pids_said(process, 2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    # Whether it has come to its barrier or is on its way there.
    assert number == signal.SIGKILL or "[0] KeyboardInterrupt" in output
    assert all(has_ended(pid, 10) for pid in pids)
    assert not files_left(before)


def test_a_hangup_that_is_ignored_stays_ignored(script, tmp_path):
    """As under nohup."""
    heard = tmp_path / "heard"
    source = SAY_PID + f"open({str(heard)!r}, 'x').write(str(signal.getsignal(signal.SIGHUP)))"
    command = ["nohup", *umem_command("run", "-n", 1, script(source))]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True)
    assert heard.read_text() == "1", "SIG_IGN"


def test_a_signal_that_every_rank_handles_is_no_failure(start_script):
    source = SAY_PID + "try:\n    signal.pause()\nexcept KeyboardInterrupt:\n    print('tidied up')"
    process = start_script(source, "-n", 2)
    pids_said(process, 2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and output.count("tidied up") == 2


def test_a_second_ctrl_c_does_not_wait(start_script):
    handler = "signal.signal(signal.SIGINT, lambda *_: print('heard', flush=True))\n"
    source = SAY_PID.replace("print(", handler + "print(") + "while True: signal.pause()"
    process = start_script(source, "-n", 2, times=["INTERRUPT_GRACE_S=1000"])
    pids = pids_said(process, 2)
    process.send_signal(signal.SIGINT)
    while "heard" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert all(has_ended(pid, 0) for pid in pids)


def test_no_rank_outlives_a_killed_parent(start_script, world_kind):
    before = shared_memory_files()
    process = start_script(SAY_PID + "time.sleep(1000)", "-n", 3, "--world", world_kind)
    pids = pids_said(process, 3)
    process.kill()
    assert all(has_ended(pid, 10) for pid in pids)
    assert not files_left(before)


def test_a_reader_that_goes_away_ends_the_world(start_script):
    process = start_script(SAY_PID + "while True: print('more')", "-n", 2)
    pids = pids_said(process, 2)
    process.stdout.close()
    assert process.wait(30) == 128 + signal.SIGPIPE
    assert all(has_ended(pid, 0) for pid in pids)


def test_two_worlds_at_once(start_script, script):
    source = "import umem\nwith umem.init() as space:\n    space.barrier()\n    print('sum', space.num_ranks)"
    options = ("--segment", "64M")
    processes = [start_script(source, "-n", ranks, *options, for_space=True) for ranks in (2, 3)]
    for process, ranks in zip(processes, (2, 3), strict=True):
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and output.count(f"sum {ranks}") == ranks, output


# --- bad input


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("-n", 2, "--world", "flat"), "unknown world 'flat'; known: mapped, no-peer-access, hosts"),
        (("-n", 2, "--segment", "2X"), "size '2X'"),
        (("-n", 0), "0 ranks"),
        (("-n", 2, "--hosts", 2), "use world 'hosts'"),
        (("-n", 2, "--timeout-s", 0), "above 0"),
        (("-n", 1000, "--pin"), "1000 ranks"),
        (("-n", 2, "--network", "eth99"), "unknown network interface 'eth99'"),
        (("-n", 2, "--world", "hosts", "--network", "lo"), "a network of their own"),
    ],
)
def test_bad_input_is_told_with_the_way_out(run_script, options, text):
    done = run_script("raise SystemExit('it ran')", *options)
    assert done.returncode == 2 and text in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "it ran" not in done.stderr


def test_a_script_that_is_not_there(tmp_path):
    command = umem_command("run", "-n", 2, tmp_path / "absent.py")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "no script" in done.stderr
