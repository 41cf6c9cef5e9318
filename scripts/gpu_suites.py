"""Parts of scripts/gpu-check that are programs of their own: tests of GPU ranks by pytest; compute-sanitizer."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gpu_isolated import end_group
from gpu_page import FAIL, PASS, WAIVED, Page, Row

ROOT = Path(__file__).parents[1]
FILES = {  # with their deadlines in seconds
    "tests/cuda/test_gpu.py": 150,
    "tests/cuda/test_collectives.py": 150,
    "tests/cuda/test_worlds.py": 240,
}
SANITIZER_S = 90
SANITIZED = ("copy", "atomics")  # checks of a bare device: what runs under it takes tens of times as long
OUTCOME = re.compile(r"^tests/cuda/(\w+)\.py::(\w+)(?:\[(.*)\])? (PASSED|FAILED|ERROR|SKIPPED)", re.MULTILINE)
DEVICE = re.compile(r"(?:^|-)((?:cuda|cpu)[\w:,]*)(?:-|$)")
REASON = re.compile(r"^SKIPPED \[\d+\] \S+ (.*)$", re.MULTILINE)
FAILURE = re.compile(r"^(?:FAILED|ERROR) (tests/\S+.*)$", re.MULTILINE)


def run_worlds(page: Page, ends_at: float) -> None:
    """The tests of GPU ranks (`-m gpu`), whose launches take this machine's own driver: a row a test and device."""
    if importlib.util.find_spec("pytest") is None:
        page.add(Row("worlds of GPU ranks", "cuda", WAIVED, "pytest is not installed"))
        return
    for file, deadline_s in FILES.items():
        text, ended = run_pytest(file, min(deadline_s, ends_at - time.monotonic()))
        for row in rows_of(text):
            page.add(row)
        if ended == 5:
            page.add(Row(file, "cuda", FAIL, "no test is marked gpu"))
        elif ended not in (0, 1):
            last = (text.strip().splitlines() or ["without a word"])[-1]
            reason = "past its deadline" if ended is None else f"pytest ended with {ended}"
            page.add(Row(file, "cuda", FAIL, f"{reason}: {last}"))


def run_pytest(file: str, deadline_s: float) -> tuple[str, int | None]:
    """What pytest prints, also where it is ended at its deadline, and its exit code, None then."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-o",
        "addopts=",
        "-m",
        "gpu and not soak and not long",
        "-rfEs",
        file,
    ]
    command += ["--tb=short", "-p", "no:cacheprovider"]
    environment = os.environ | {"UMEM_GPU_TESTS": "real", "COLUMNS": "400", "PYTHONUNBUFFERED": "1"}
    return run_bounded(command, deadline_s, environment)


def rows_of(text: str) -> Iterator[Row]:
    """A row for each test function and device of pytest's lines: how many passed, and why others did not."""
    outcomes: dict[tuple[str, str], Counter[str]] = {}
    for _, test, parameters, outcome in OUTCOME.findall(text):
        device = DEVICE.search(parameters)
        key = test.removeprefix("test_").replace("_", " "), device[1] if device else "cuda"
        outcomes.setdefault(key, Counter())[outcome] += 1
    skipped = "; ".join(dict.fromkeys(REASON.findall(text)))
    for (test, device), counts in outcomes.items():
        said = ", ".join(f"{number} {outcome.lower()}" for outcome, number in counts.items())
        if counts["FAILED"] or counts["ERROR"]:
            yield Row(test, device, FAIL, f"{said}: {'; '.join(FAILURE.findall(text))[:600]}")
        elif counts["PASSED"]:
            yield Row(test, device, PASS, said + (f" ({skipped})" if counts["SKIPPED"] else ""))
        else:
            yield Row(test, device, WAIVED, skipped or said)


def run_sanitizer(page: Page, ends_at: float) -> None:
    """One launch of each of two kernels under compute-sanitizer, where that is installed."""
    name, device = "compute-sanitizer", "cuda:0"
    found = shutil.which(name)
    if found is None:
        page.add(Row(name, device, WAIVED, "it is not on PATH (CUDA toolkit, or nvidia-cuda-sanitizer-api)"))
        return
    run = [sys.executable, str(Path(__file__).with_name("gpu_run.py")), "--one", ",".join(SANITIZED)]
    command = [found, "--tool", "memcheck", "--error-exitcode", "9", *run]
    text, ended = run_bounded(command, min(SANITIZER_S, ends_at - time.monotonic()), dict(os.environ))
    last = " / ".join(text.strip().splitlines()[-3:])
    said = "past its deadline" if ended is None else f"ended with {ended}"
    page.add(Row(name, device, PASS if ended == 0 else FAIL, f"{said}: {last}"))


def run_bounded(command: list[str], deadline_s: float, environment: dict[str, str]) -> tuple[str, int | None]:
    """What a program and all that it starts print until the deadline, and its exit code; None where it was ended."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        cwd=ROOT,
        start_new_session=True,
    ) as program:
        try:
            text, _ = program.communicate(timeout=max(deadline_s, 0))
            return text, program.returncode
        except subprocess.TimeoutExpired:
            end_group(program)
            text, _ = program.communicate()
            return text, None
