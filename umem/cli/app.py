"""`umem info`, `plan`, `verdict`, `bench`, `verify`: options in, exit codes out; the work is elsewhere.

Exit codes: 0, 1 for a failed bar or a failed run, 2 for an option that cannot be used, 3 for an incomplete result of
`verdict`, `bench` or `verify`. `umem run` does not pass through here (umem/__main__.py): its start-up time is
promised, and this module's imports take longer.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..errors import ConfigError, UmemError
from ..units import parse_size
from ..world.spec import KINDS, MAPPED

if TYPE_CHECKING:
    from ..bench.harness.side import Options

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # a full or read-only disk is no bug
USAGE_CODE, FAILURE_CODE, INTERRUPTED_CODE = 2, 1, 130
WORLD_HELP = "; ".join(f"{kind}: {meaning}" for kind, meaning in KINDS.items())

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="One memory across devices in software, messages beside it, and measurements of both.",
)

Ranks = Annotated[int, typer.Option("-n", "--ranks", help="ranks of the world")]
World = Annotated[str, typer.Option("--world", help=WORLD_HELP)]
Seed = Annotated[int, typer.Option("--seed", help="of everything that is random")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="write the results here")]


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False
)
def run(context: typer.Context) -> None:
    """Run a script in every rank of a new world: umem run -n N [OPTIONS] SCRIPT [-- ARGS]."""
    from ..world.command import run_command

    raise typer.Exit(run_command(context.args))


@app.command()
def info(
    json_file: JsonFile = None,
    ranks: Ranks = 2,
    world: World = MAPPED,
    device: Annotated[
        str | None, typer.Option("--device", help="what the ranks work on: cpu, cuda, cuda:0,cpu, ...")
    ] = None,
) -> None:
    """List this machine's devices, fabrics and limits, and for each that is missing the line that fixes it."""
    from . import info as report

    report.show(_console(), ranks, world, device, json_file)


@app.command()
def plan(
    tables: Annotated[Path, typer.Argument(help="a list of embedding tables: docs/embedding.md")],
    ranks: Ranks = 2,
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="of each rank for tables (default: what a segment has here)"),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Say where embedding tables should lie: bytes and expected look-ups a rank, and why."""
    from . import plan as planner

    planner.show(_console(), tables, ranks, memory, json_file)


@app.command()
def verdict(
    ranks: Annotated[
        int | None, typer.Option("-n", "--ranks", help="ranks (default: a rank a core, 2 to 8)")
    ] = None,
    world: World = MAPPED,
    report: Annotated[Path, typer.Option("--report", help="where to write the page")] = Path("report.html"),
    json_file: JsonFile = None,
    seed: Seed = 1,
) -> None:
    """Say whether this machine's ranks form one memory or a stack of servers, with the evidence.

    Kernels are compiled first. Exit code 0: every case that has a meaning here was measured, and all data was right;
    1: wrong data, or a case failed; 3: a case could not be measured, and the last line names it.
    """
    from ..bench.verdict import verdict as judge

    code = judge.run(_console(), ranks, world, report, json_file, seed)
    raise typer.Exit(code)


@app.command()
def bench(
    cases: Annotated[
        list[str] | None, typer.Argument(help="cases or families of them (default: all)")
    ] = None,
    list_cases: Annotated[bool, typer.Option("--list", help="list the cases")] = False,
    ranks: Ranks = 2,
    begin: Annotated[str, typer.Option("-b", "--begin", help="smallest size")] = "8",
    end: Annotated[str, typer.Option("-e", "--end", help="largest size")] = "64M",
    factor: Annotated[int, typer.Option("-f", "--factor", help="from one size to the next")] = 4,
    warmup: Annotated[int, typer.Option("-w", "--warmup", help="iterations before the measured ones")] = 5,
    iters: Annotated[int, typer.Option("--iters", help="samples of each side at each size")] = 200,
    semantics: Annotated[
        str, typer.Option(help="comma-separated: load_store, rma, message, staged, near")
    ] = "",
    peers: Annotated[
        str, typer.Option(help="comma-separated: ucx_perftest, gloo, mpi, mpich, impi, ucxx")
    ] = "",
    world: World = MAPPED,
    dtype: Annotated[str, typer.Option("--dtype", help="of the elements of collectives")] = "float32",
    op: Annotated[str, typer.Option("--op", help="of collectives: sum, prod, min, max, avg")] = "sum",
    in_place: Annotated[
        bool | None, typer.Option("--in-place/--out-of-place", help="of collectives (default: both)")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="table, or nccl: the columns of nccl-tests, of collectives")
    ] = "table",
    json_file: JsonFile = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="write the rows here")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="draw the rows here (.png, .svg, .pdf)")] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option("--compare", help="two files of --json: old, new")
    ] = None,
    bars: Annotated[
        str | None, typer.Option("--bars", help="measure the bars of a group, one by its id, or all")
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="measure from which sizes teams go another way here, and keep it")
    ] = False,
    seed: Seed = 1,
) -> None:
    """Measure: rows of cases, a comparison of two results, or bars.

    Exit code 1: a row has an error, or a bar fails; 3: every case or bar that was asked for was waived.
    """
    from ..bench import command

    if compare is not None:
        command.show_comparison(_console(), *compare)
        return
    if list_cases:
        command.list_cases(_console())
        return
    options = _options(ranks, (begin, end), factor, warmup, iters, semantics, peers, world, seed)
    options = replace(options, dtype=dtype, op=op, in_place=in_place)
    if tune:
        raise typer.Exit(command.tune_teams(_console(), options))
    if bars is not None:
        raise typer.Exit(command.run_bars(bars, options, json_file))
    outputs = command.Outputs(json_file, csv_file, plot)
    raise typer.Exit(command.run_cases(_console(), cases or [], options, outputs, form))


verify_app = typer.Typer(
    no_args_is_help=True,
    help="Check all executions of a kernel, all states of a protocol, litmus tests, and deaths of ranks.",
)
app.add_typer(verify_app, name="verify")


@verify_app.command("model")
def verify_model(
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol", help="msi, mesi, snoop, or a Python file that assigns protocol = Protocol(...)"
        ),
    ] = None,
    nodes: Annotated[
        int, typer.Option("--nodes", help="ranks beside the home, a transaction a step; 0: not")
    ] = 8,
    flits: Annotated[int, typer.Option("--flits", help="ranks beside the home, by messages; 0: not")] = 3,
    limit_s: Annotated[float, typer.Option("--limit-s", help="seconds for each search")] = 60.0,
) -> None:
    """Search every state that a coherence protocol can reach (default: all that are shipped).

    Exit code 0: all exhausted; 1: a bug, with the shortest trace to it; 2: a table that is not valid; 3: a search
    reached its limit, which is no pass.
    """
    from ..verify.model import command

    raise typer.Exit(command.check(_console(), protocol, nodes, flits, limit_s))


@verify_app.command("kernel")
def verify_kernel(
    file: Annotated[Path, typer.Argument(help="a Python file that assigns programs: umem.verify.Program")],
    limit_s: Annotated[float, typer.Option("--limit-s", help="seconds for each search")] = 60.0,
    walks: Annotated[
        int, typer.Option("--walks", help="random executions where a search reaches its limit")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="of the random executions")] = 1,
) -> None:
    """Model-check kernels as they are: every execution of their lanes, sequential and in weak memory.

    Exit code 0: all exhausted; 1: a bug, with a trace to it; 3: a search reached its limit, which is no pass.
    """
    from ..verify.kernel import command

    raise typer.Exit(command.check_file(_console(), file, limit_s, walks, seed))


@verify_app.command("litmus")
def verify_litmus(
    files: Annotated[
        list[Path] | None, typer.Argument(help="files of one litmus test each (default: those of umem)")
    ] = None,
    ranks: Annotated[
        int | None, typer.Option("-n", "--ranks", help="ranks of the world (default: the lanes of each test)")
    ] = None,
    world: World = MAPPED,
    cache: Annotated[
        str, typer.Option("--cache", help="attribute of the memory: none, back, through")
    ] = "none",
    line_cache: Annotated[
        str | None, typer.Option("--line-cache", help="of copies that a rank keeps; a small one evicts")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="of cached memory: msi, mesi, snoop, or a file")
    ] = None,
    instances: Annotated[
        int | None,
        typer.Option(
            "--instances", help="of each test (default: 10^5 mapped, 10^4 no-peer-access, 10^3 hosts)"
        ),
    ] = None,
    model: Annotated[
        bool, typer.Option("--model", help="under the model checker instead: every end, in weak memory too")
    ] = False,
    seed: Seed = 1,
    ends: Annotated[int, typer.Option("--ends", min=1, help="of each test to show, most common first")] = 3,
) -> None:
    """Play litmus tests on the memory of a world, count the ends seen, and fail if a forbidden one is.

    Exit code 0: all pass; 1: a forbidden end was seen; 3, which is no pass: a test showed only one end, or every test
    needs more ranks than there are.
    """
    from ..verify.litmus import command

    tests = command.tests_of(files or [])
    if model:
        raise typer.Exit(command.run_model(_console(), tests))
    options = command.Options(world, ranks, cache, instances, seed, line_cache, protocol)
    raise typer.Exit(command.run(_console(), tests, options, ends))


@verify_app.command("faults")
def verify_faults(
    what: Annotated[
        str, typer.Option("--what", help="comma-separated: heap, directory, agent")
    ] = "heap,directory,agent",
    kills: Annotated[int, typer.Option("--kills", help="ranks to kill at each kind of work")] = 12,
    world: World = MAPPED,
    seed: Seed = 1,
) -> None:
    """Kill ranks at random moments of their work, and check that the survivors go on with right values.

    Recovery is the time from a death to a survivor's first access to memory that the dead rank held, or to the error
    that the memory is lost. Exit code 1: a survivor hung, lost memory that it must not, or found a wrong value.
    """
    from ..verify.faults import command

    raise typer.Exit(command.check(_console(), _names(what), world, kills, seed))


def _options(
    ranks: int,
    sizes: tuple[str, str],
    factor: int,
    warmup: int,
    iters: int,
    semantics: str,
    peers: str,
    world: str,
    seed: int,
) -> Options:
    from ..bench.harness.side import SEMANTICS, Options

    return Options(
        ranks=ranks,
        begin_bytes=parse_size(sizes[0]),
        end_bytes=parse_size(sizes[1]),
        factor=factor,
        warmup=warmup,
        iters=iters,
        semantics=_names(semantics) or SEMANTICS,
        peers=_names(peers),
        world=world,
        seed=seed,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _console() -> Console:
    """Standard output; wide where it is no terminal, so that files and pipes get whole lines."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def main(arguments: Iterable[str] | None = None) -> int:
    """Run a command; returns its exit code. Errors of umem's users are one line on stderr."""
    try:
        app(args=None if arguments is None else list(arguments))
    except SystemExit as end:  # how typer ends, also for options that it does not know
        return int(end.code or 0)
    except ConfigError as error:
        return _fail(error, USAGE_CODE)
    except UmemError as error:
        return _fail(error, FAILURE_CODE)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        return _fail(f"{error}; make room there, or name another folder (TMPDIR, UMEM_CACHE)", FAILURE_CODE)
    except KeyboardInterrupt:
        return INTERRUPTED_CODE
    return 0


def _fail(error: object, code: int) -> int:
    print(f"umem: {error}", file=sys.stderr)
    return code
