"""Worlds of mpirun, mpiexec and srun: their variables, and meeting in rank 0."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest

from tests.launching import SCRIPT_TIMEOUT_S
from umem.errors import ConfigError, WaitTimeout, WorldError
from umem.world import join, launchers, meeting, membership, torchrun

SIZES = {
    "open mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "mvapich2": ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    "hydra": ("PMI_RANK", "PMI_SIZE"),
    "slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
}
SLURM_STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "1"}

mpirun = shutil.which("mpirun", path=sysconfig.get_path("scripts"))
needs_mpirun = pytest.mark.skipif(mpirun is None, reason="Open MPI is not installed: scripts/setup peers")


def without_launchers() -> dict[str, str]:
    """This environment without what a launcher of the tests themselves may have set."""
    mark = re.compile("RANK|WORLD_SIZE|MASTER_|OMPI_|PMIX?_|MPI_|MV2_|SLURM_")
    return {name: value for name, value in os.environ.items() if not mark.match(name)}


@pytest.fixture
def launched(monkeypatch):
    """Set the variables of a launcher, in a process that has joined no world."""

    def set_variables(**values: object) -> None:
        for name in os.environ.keys() - without_launchers().keys():
            monkeypatch.delenv(name)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    monkeypatch.setattr(membership, "_process", membership._Process())
    return set_variables


# --- what the variables say


@pytest.mark.parametrize(("rank", "size"), SIZES.values(), ids=SIZES)
def test_every_launcher_says_who_this_process_is(launched, rank, size):
    launched(**{rank: 1, size: 4})
    request = launchers.request()
    assert request is not None
    assert (request.rank, request.num_ranks, request.is_one_host) == (1, 4, True)
    launched(**{rank: 4, size: 4})
    with pytest.raises(ConfigError, match=f"{rank}=4 is not below {size}=4"):
        join()
    launched(**{rank: 0, size: 1})
    with join() as world:
        assert world.num_ranks == 1


@pytest.mark.parametrize(
    ("values", "job"),
    [
        ({"OMPI_COMM_WORLD_RANK": 0, "OMPI_COMM_WORLD_SIZE": 2, "PMIX_NAMESPACE": "prterun@1"}, "prterun@1"),
        ({"SLURM_PROCID": 0, "SLURM_STEP_NUM_TASKS": 2, **SLURM_STEP}, "7 0"),
        ({"PMI_RANK": 0, "PMI_SIZE": 2, "PMI_JOBID": "7.0"}, "7.0"),
        ({"PMI_RANK": 0, "PMI_SIZE": 2}, f"{os.getppid()} "),
    ],
)
def test_a_job_has_a_name(launched, values, job):
    launched(**values)
    request = launchers.request()
    assert request is not None and request.job.startswith(job)


def test_the_inner_launcher_wins_and_says_so(launched):
    launched(OMPI_COMM_WORLD_RANK=0, OMPI_COMM_WORLD_SIZE=4, SLURM_PROCID=0, SLURM_STEP_NUM_TASKS=2)
    with pytest.warns(UserWarning, match=r"srun started 2 processes and Open MPI's mpirun, inside of it, 4"):
        request = launchers.request()
    assert request is not None and request.num_ranks == 4


def test_torchrun_wins_and_says_so(launched):
    launched(RANK=0, WORLD_SIZE=8, SLURM_PROCID=0, SLURM_STEP_NUM_TASKS=2)
    with pytest.warns(UserWarning, match="srun started 2 processes and torchrun, inside of it, 8"):
        assert torchrun.is_requested()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"RANK": 0, "WORLD_SIZE": 1, "PMI_RANK": 0, "PMI_SIZE": 2}, "WORLD_SIZE=1 and mpiexec .* 2 ranks"),
        ({"PMIX_RANK": 1}, "PMIX_RANK is set"),
        ({"PMI_RANK": "one", "PMI_SIZE": 2}, "PMI_RANK='one'"),
        (
            {"OMPI_COMM_WORLD_RANK": 0, "OMPI_COMM_WORLD_SIZE": 4, "OMPI_COMM_WORLD_LOCAL_SIZE": 2},
            "on several hosts, and MASTER_ADDR and MASTER_PORT must say",
        ),
        (
            {"SLURM_PROCID": 0, "SLURM_STEP_NUM_TASKS": 4, **SLURM_STEP, "SLURM_STEP_NUM_NODES": 2},
            "on several hosts, and MASTER_ADDR and MASTER_PORT must say",
        ),
    ],
)
def test_variables_that_would_make_many_worlds_are_refused(launched, values, text):
    launched(**values)
    with pytest.raises(ConfigError, match=text):
        join()


def test_several_hosts_meet_where_torchrun_does(launched):
    launched(PMI_RANK=1, PMI_SIZE=4, MPI_LOCALNRANKS=2, MASTER_ADDR="node0", MASTER_PORT=29500)
    request = launchers.request()
    assert request is not None and not request.is_one_host
    assert torchrun.request_of(request) == torchrun.Request(1, 4, "node0", 29500)


def test_a_batch_script_is_one_process(launched):
    launched(SLURM_JOB_ID=7, SLURM_PROCID=0, SLURM_NTASKS=4, SLURM_LOCALID=0)
    with join() as world:
        assert world.num_ranks == 1


def test_where_a_launcher_does_not_say_how_many_ranks_are_here_an_address_does(launched):
    launched(PMI_RANK=0, PMI_SIZE=4, MASTER_ADDR="node0")
    request = launchers.request()
    assert request is not None and not request.is_one_host
    launched(PMI_RANK=0, PMI_SIZE=4, MPI_LOCALNRANKS=4, MASTER_ADDR="node0")
    request = launchers.request()
    assert request is not None and request.is_one_host


def test_torchrun_of_one_inside_a_launcher_of_one_is_no_mistake(launched):
    launched(RANK=0, WORLD_SIZE=1, PMI_RANK=0, PMI_SIZE=1)
    launchers.compare_with_torchrun(0, 1)


def test_a_job_is_named_after_the_first_ancestor_that_is_no_rank():
    """A rank may be started through a shell, which has its variables."""
    source = "from umem.world.launchers import request; print(request().job)"
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -c "{source}"; true'],
        check=False,
        capture_output=True,
        text=True,
        timeout=SCRIPT_TIMEOUT_S,
        env=without_launchers() | {"PMI_RANK": "0", "PMI_SIZE": "2"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{os.getpid()} ")


# --- meeting in rank 0


@pytest.fixture
def run_ranks(script):
    """A source in processes that have the variables of a launcher's ranks; returns how they ended, by rank."""

    def run(
        source: str, launcher: str, ranks: list[int], num_ranks: int, **more: str
    ) -> list[tuple[int, str]]:
        rank_name, size_name = SIZES[launcher]
        command = [sys.executable, str(script(source))]
        processes = []
        for rank in ranks:
            environment = without_launchers() | more | {rank_name: str(rank), size_name: str(num_ranks)}
            processes.append(
                subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
                )
            )
        try:
            outputs = [process.communicate(timeout=SCRIPT_TIMEOUT_S)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]

    return run


@pytest.mark.parametrize(("launcher", "more"), [("hydra", {}), ("slurm", SLURM_STEP)])
def test_ranks_meet_leave_and_meet_again(run_ranks, launcher, more):
    source = """
        from umem.world import join
        for stay in range(2):
            with join() as world:
                print(world.spec.kind, world.exchange("who", b"%d" % world.rank))
    """
    expected = "mapped [b'0', b'1', b'2']\n" * 2
    assert run_ranks(source, launcher, [2, 1, 0], 3, **more) == [(0, expected)] * 3


def test_umem_run_under_mpirun_says_how_many_worlds_there_are(run_script):
    environment = without_launchers() | {"PMI_RANK": "0", "PMI_SIZE": "3"}
    done = run_script("print('here')", "-n", 1, env=environment)
    assert (done.returncode, done.stdout) == (0, "[0] here\n")
    assert "started this command 3 times, and each is a world of 1" in done.stderr


@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_rank_is_lost_also_where_a_fork_of_it_lives(run_ranks, victim):
    source = f"""
        import os, signal
        from umem.errors import RankLost
        from umem.world import join
        world = join()
        is_victim = world.rank == {victim}
        fork = os.fork() if is_victim else 1
        if fork == 0:
            signal.pause()
        fork = int(world.exchange("fork", str(fork).encode())[{victim}])
        if is_victim:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            world.exchange("never", b"", 10)
        except RankLost as lost:
            print("lost", lost.rank)
        finally:
            os.kill(fork, signal.SIGKILL)
    """
    ended = run_ranks(source, "hydra", [0, 1], 2)
    assert ended[victim][0] == -9
    assert ended[1 - victim] == (0, f"lost {victim}\n")


def test_ranks_that_never_come_are_named(launched):
    launched(PMI_RANK=0, PMI_SIZE=3, PMI_JOBID=os.getpid(), UMEM_TIMEOUT_S="0.2")
    with pytest.raises(
        WaitTimeout, match=r"for rank 1, 2; mpiexec of .* started 3 ranks, and each must call"
    ):
        join()
    again = launchers.Request("mpiexec", 0, 3, str(os.getpid()), True)
    with pytest.raises(WorldError, match="another process is rank 0 of this job"):
        meeting.enter(again, 0.2)
    twin = launchers.Request("mpiexec", 1, 2, str(os.getpid()), True)
    with pytest.raises(WaitTimeout, match="it has a world of 3 ranks"):
        meeting.enter(twin, 0.2)


def test_a_name_of_another_user_is_refused(launched, monkeypatch):
    monkeypatch.setattr(meeting, "is_own_user", lambda stream: False)
    launched(PMI_RANK=0, PMI_SIZE=2, PMI_JOBID=f"{os.getpid()} stranger")
    with pytest.raises(WorldError, match="taken by a process of another user"):
        join()


# --- the real one


SUM = """
    import umem
    with umem.init() as space:
        words = space.shared("words", 1, "int64", home=space.num_ranks - 1)
        space.fetch_add(words.address, space.rank + 1)
        space.barrier()
        open(str(space.rank), "x").write(str(space.load(words.address, "int64")))
"""
EXCHANGE = """
    from umem.world import join
    with join() as world:
        open(str(world.rank), "x").write(str(sum(map(int, world.exchange("numbers", b"%d" % (world.rank + 1))))))
"""


@needs_mpirun
@pytest.mark.parametrize(("num_ranks", "source"), [(2, SUM), (4, EXCHANGE)])
def test_mpirun_makes_one_world(script, num_ranks, source):
    assert mpirun is not None
    path = script(source)
    options = ["--allow-run-as-root", "--oversubscribe", "-n", str(num_ranks)]
    done = subprocess.run(
        [mpirun, *options, sys.executable, str(path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=SCRIPT_TIMEOUT_S,
        env=without_launchers() | {"UMEM_SEGMENT": "64M"},
        cwd=path.parent,
    )
    assert done.returncode == 0, done.stderr
    # Each in a file of its own: mpirun mixes what ranks print.
    sums = {(path.parent / str(rank)).read_text() for rank in range(num_ranks)}
    assert sums == {str(num_ranks * (num_ranks + 1) // 2)}
