"""`umem run`: a script in every rank of a new world. This process is itself the warm parent.

It stands apart from the other commands because start-up time is promised: argparse instead of typer, rich
and matplotlib, which together cost more than the world.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from ..errors import ConfigError, UmemError
from . import launchers
from .job import Outcome
from .liveness import describe_exit
from .spec import CONTINUE, END, KINDS, WorldSpec

USAGE_CODE = 2
INTERRUPTED_CODE = 130


def run_command(arguments: Sequence[str]) -> int:
    """Run `umem run` with these arguments; returns its exit code, that of the first rank that failed."""
    options = _parser().parse_args(arguments)
    try:
        outcome = _run(options)
    except ConfigError as error:
        print(f"umem run: {error}", file=sys.stderr)
        return USAGE_CODE
    except UmemError as error:
        print(f"umem run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while kernels load; later it goes to the ranks
        return INTERRUPTED_CODE
    _explain(outcome)
    return outcome.exit_code


def _run(options: argparse.Namespace) -> Outcome:
    spec = WorldSpec.of(
        options.ranks,
        options.world,
        options.hosts,
        options.segment,
        options.host_segment,
        options.timeout_s,
        line_cache=options.line_cache,
        line_cache_ways=options.line_cache_ways,
        protocol=options.protocol,
        device=options.device,
        pin=options.pin,
        network=options.network,
        prefault=options.prefault,
        huge_pages=options.huge_pages,
        on_failure=CONTINUE if options.keep_going else END,
    )
    if not options.module and not os.path.isfile(options.script) and not _is_program(options.script):
        raise ConfigError(f"no script {options.script!r}; for a module use -m")
    _warn_of_copies(spec.num_ranks)
    from .ranks import run_script
    from .supervisor import Supervisor
    from .warm_parent import warm_up

    # Checked before the seconds that loading may take.
    script_arguments = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
    _look_beside(options.script, options.module)
    warm_up(options.preload.split(",") if options.preload else (), kind=spec.kind)
    return Supervisor(
        spec,
        lambda rank, channel: run_script(channel, options.script, script_arguments, options.module),
        marks_output=options.prefix,
    ).run()


def _is_program(folder: str) -> bool:
    """Whether Python would run `folder` as a program."""
    return os.path.isfile(os.path.join(folder, "__main__.py"))


def _look_beside(script: str, is_module: bool) -> None:
    """Search for modules first where Python would: in the current folder for `-m`, else beside the script.

    In the parent, so that --preload finds them too.
    """
    if sys.flags.safe_path:  # python -P: the first entry is no folder of the program's
        return
    sys.path[0] = os.getcwd() if is_module else os.path.dirname(os.path.realpath(script))


def _warn_of_copies(num_ranks: int) -> None:
    """Say so where mpirun or srun has started this command several times: each is a world of its own."""
    claim = launchers.innermost()
    if claim is not None and claim.rank == 0 and claim.num_ranks > 1:
        print(
            f"umem run: {claim.launcher} started this command {claim.num_ranks} times, and each is a world of"
            f" {num_ranks}; for one world leave one of the two out",
            file=sys.stderr,
        )


def _explain(outcome: Outcome) -> None:
    """Say in one line on stderr which rank ended the world, and how."""
    cause = outcome.cause
    if cause is not None:
        with suppress(BrokenPipeError):  # whoever read stderr is gone, and perhaps that is why
            print(f"umem run: rank {cause.rank} {describe_exit(cause.exit_code)}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="umem run",
        description="Run a script in every rank of a new world; the first failure gives its exit code.",
        usage="umem run -n N [OPTIONS] SCRIPT [-- ARGS]",
    )
    parser.add_argument("-n", "--ranks", type=int, required=True, metavar="N", help="number of ranks")
    kinds = "; ".join(f"{kind}: {meaning}" for kind, meaning in KINDS.items())
    parser.add_argument("--world", default="mapped", metavar="KIND", help=kinds)
    parser.add_argument("--hosts", type=int, metavar="K", help="hosts of a hosts world (default 2)")
    parser.add_argument("--segment", metavar="SIZE", help="device memory of each rank, for example 2G")
    parser.add_argument(
        "--device",
        metavar="D,...",
        help="what ranks work on, in turn: cpu (default), cuda, cuda:0,cuda:1, cuda,cpu",
    )
    parser.add_argument("--host-segment", metavar="SIZE", help="host memory of each rank")
    parser.add_argument(
        "--prefault", action="store_true", help="back every page of the segments at the start"
    )
    parser.add_argument("--huge-pages", action="store_true", help="ask for huge pages behind the segments")
    parser.add_argument(
        "--pin",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="each rank on a core of its own (default: where there are enough)",
    )
    parser.add_argument(
        "--line-cache", metavar="SIZE", help="copies that a rank keeps of cached memory (default 16M)"
    )
    parser.add_argument(
        "--line-cache-ways", type=int, metavar="N", help="places where a line may be in it (default 8)"
    )
    parser.add_argument(
        "--protocol", metavar="NAME|FILE", help="of cached memory: msi (default), mesi, snoop, or a file"
    )
    parser.add_argument("--timeout-s", type=float, metavar="S", help="deadline of every wait (default 60)")
    parser.add_argument(
        "--network",
        metavar="IFACE",
        help="let traffic leave loopback through this interface; it is not authenticated",
    )
    parser.add_argument("--keep-going", action="store_true", help="a rank that fails does not end the others")
    parser.add_argument(
        "--prefix",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="mark each line of output with its rank",
    )
    parser.add_argument("--preload", metavar="MODULES", help="modules to import once, before forking (a,b,c)")
    parser.add_argument("-m", "--module", action="store_true", help="SCRIPT is the name of a module")
    parser.add_argument("script", metavar="SCRIPT")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGS")
    return parser
