"""Steps that each need a process of their own, in forks of one that has imported what they use."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable


def run_each(steps: Iterable[Callable[[], None]]) -> None:
    """Print a line a step: its name, and ok or how it ended. The driver must not be in use before."""
    for step in steps:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                step()
                code = 0
            except Exception:  # noqa: BLE001 - the child's one report
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(step.__name__, "ok" if ended == 0 else f"ended with {ended}", flush=True)
