"""Checks in processes of their own, each with a deadline: what hangs, crashes or loses the device costs its own row.

A child runs the cases of a part in turn and says when each starts and what came of it. Where one does not come back in
time, ends the child, or leaves the device unusable, the parent goes on with the next case in a new child.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gpu_page import ANSWER, FAIL, PASS, WAIVED, Page, Row, Waived

from umem.errors import UmemError

MARK = "gpu-check:"
ENDED = {"event": "end"}


@dataclass(frozen=True)
class Case:
    """A check: `run` returns the evidence, or raises AssertionError, a UmemError, or Waived. A question has no failure.

    `is_last` of its process: what it leaves behind must not meet another.
    """

    name: str
    device: str
    run: Callable[[], str]
    deadline_s: float = 60
    is_question: bool = False
    is_last: bool = False


def serve(cases: Iterable[Case], first: int, is_lost: Callable[[], bool]) -> None:
    """In the child: run the cases from number `first` on, until the device is lost."""
    for number, case in enumerate(cases):
        if number < first:
            continue
        told = {"check": case.name, "device": case.device, "is_question": case.is_question}
        _tell({"event": "start", "deadline_s": case.deadline_s, **told})
        verdict, evidence = judge(case)
        _tell({"event": "row", "verdict": verdict, "evidence": evidence})
        if case.is_last or is_lost():
            return
    _tell(ENDED)


def judge(case: Case) -> tuple[str, str]:
    """Run a case: its verdict and the evidence."""
    try:
        return ANSWER if case.is_question else PASS, case.run()
    except Waived as reason:
        return WAIVED, str(reason)
    except (AssertionError, UmemError) as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return (ANSWER, f"no answer: {said}") if case.is_question else (FAIL, said)


def run_part(page: Page, command: list[str], ends_at: float) -> None:
    """Add the rows of a part, whose child `command` is given the number of its first case, until `ends_at`."""
    first, has_ended = 0, False
    while not has_ended:
        with tempfile.TemporaryFile("w+") as errors, _child([*command, str(first)], errors) as child:
            started, limit = None, min(time.monotonic() + 60, ends_at)
            for told in _events(child, lambda: limit):  # noqa: B023 - the limit of now
                if told == ENDED:
                    has_ended = True
                elif told["event"] == "start":
                    started = told
                    limit = min(time.monotonic() + told["deadline_s"], ends_at)
                else:
                    assert started is not None
                    page.add(Row(started["check"], started["device"], told["verdict"], told["evidence"]))
                    first, started, limit = first + 1, None, min(time.monotonic() + 60, ends_at)
            if has_ended:
                return
            reason = _why(child, errors)
            if started is not None:
                verdict = ANSWER if started["is_question"] else FAIL
                page.add(Row(started["check"], started["device"], verdict, f"no answer: {reason}"))
                first += 1
            elif child.returncode != 0:
                page.add(Row(" ".join(command[2:]), "", FAIL, f"did not start: {reason}"))
                return
        if time.monotonic() > ends_at:
            page.add(Row(" ".join(command[2:]), "", FAIL, "the time of the whole run is over"))
            return


def end_group(child: subprocess.Popen[str]) -> None:
    """End a child and all that it has started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def _tell(event: dict[str, object]) -> None:
    print(f"{MARK}{json.dumps(event)}", flush=True)


def _child(command: list[str], errors: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True, cwd=Path.cwd()
    )


def _events(child: subprocess.Popen[str], limit: Callable[[], float]) -> Iterator[dict]:
    """What a child tells, until it ends or has said nothing until `limit`; then it is ended."""
    assert child.stdout is not None
    pipe, text = child.stdout.fileno(), b""
    while True:
        ready, _, _ = select.select([pipe], [], [], max(limit() - time.monotonic(), 0))
        more = os.read(pipe, 1 << 16) if ready else b""
        if not more:
            if ready:  # closed: it is about to end by itself
                try:
                    child.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    pass
            end_group(child)
            return
        *lines, text = (text + more).split(b"\n")
        for line in lines:
            said = line.decode(errors="replace")
            if said.startswith(MARK):
                yield json.loads(said.removeprefix(MARK))
            else:
                print(said, file=sys.stderr)


def _why(child: subprocess.Popen[str], errors: IO[str]) -> str:
    """In words, why a child has stopped."""
    if child.returncode == -signal.SIGKILL:
        return "past its deadline"
    errors.seek(0)
    last = (errors.read().strip().splitlines() or ["without a word"])[-1]
    return f"the process ended with {child.returncode}: {last}"
