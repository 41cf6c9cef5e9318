"""scripts/gpu-check from end to end on the driver that executes, and how it takes what hangs, crashes and fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gpu_isolated import MARK, run_part
from gpu_page import ANSWER, FAIL, PASS, WAIVED, Page, Row
from gpu_suites import rows_of

ROOT = Path(__file__).parents[2]
QUESTIONS = ("address hint", "share by descriptor", "memfds", "host atomics", "cubins", "prefetch")


@pytest.fixture
def gpu_check(fake_driver, driver_cache, tmp_path):
    """Run scripts/gpu-check on the driver; what it has printed, its page, and its exit code."""
    from driver.build import environment

    def run(
        *arguments: str, timeout_s: float = 100, path: str = "", **options: object
    ) -> tuple[str, str, int]:
        variables = os.environ | environment(fake_driver, driver_cache, **options)
        variables |= {"PYTHONPATH": str(ROOT / "tests" / "cuda"), "PATH": f"{path}:{os.environ['PATH']}"}
        page = tmp_path / "page.md"
        command = [str(ROOT / "scripts" / "gpu-check"), "--page", str(page), *arguments]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=timeout_s, env=variables
        )
        print(done.stdout, done.stderr)
        return done.stdout, page.read_text() if page.exists() else "", done.returncode

    return run


def test_it_answers_first(gpu_check):
    printed, page, code = gpu_check("--only", "answers", devices=1)
    assert code == 0
    for number, question in enumerate(QUESTIONS):
        assert question in printed.splitlines()[1 + number]
    assert "descriptor on one GPU? yes: 81,920 additions by two processes (cuda:0)" in page
    assert "sm_90 no_binary_for_gpu" in page and "all in one yes" in page
    assert "driver of CUDA 13.5" in page and "fake GPU 0" in page


def test_a_kernel_that_loses_additions_fails_the_run_under_a_tool_that_watches(gpu_check, tmp_path):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text('#!/bin/sh\nshift 4\n"$@"\necho "watched: $?"\nexit 9\n')
    tool.chmod(0o755)
    printed, page, code = gpu_check("--only", "sanitizer", path=str(tmp_path))
    assert code == 1 and "watched: 0" in printed
    assert "| compute-sanitizer | cuda:0 | FAIL | ended with 9: pass" in page


def test_without_a_gpu_it_says_so(gpu_check):
    assert gpu_check(devices=0)[2] == 3
    assert gpu_check("--only", "nothing")[2] == 2


@pytest.mark.soak
@pytest.mark.timeout(700)
def test_the_whole_run_ends_in_time(gpu_check):
    start = time.monotonic()
    _, page, code = gpu_check(timeout_s=600)
    assert code == 0 and FAIL not in page.replace("0 FAIL", "")
    assert time.monotonic() - start < 570
    for row in (
        "| host litmus | cuda:0 | pass",
        "| gpu ranks | cuda,cpu | pass",
        "| collectives | cuda:0 | pass",
        "| gpu | cuda:0 | pass",
    ):
        assert row in page


CHILD = f"""
import json, os, sys, time
def say(**event): print({MARK!r} + json.dumps(event), flush=True)
for number, name in enumerate(["good", "hangs", "crashes", "asked", "good again"]):
    if number < int(sys.argv[1]): continue
    say(event="start", check=name, device="cuda:0", deadline_s=1, is_question=name == "asked")
    if name == "hangs": time.sleep(60)
    if name in ("crashes", "asked"): sys.exit("no more of this")
    say(event="row", verdict="pass", evidence="seen")
say(event="end")
"""


def test_what_hangs_or_crashes_costs_its_own_row():
    page, start = Page(), time.monotonic()
    run_part(page, [sys.executable, "-c", CHILD], time.monotonic() + 50)
    assert time.monotonic() - start < 30
    verdicts = [(row.check, row.verdict) for row in page.rows]
    assert verdicts == [
        ("good", PASS),
        ("hangs", FAIL),
        ("crashes", FAIL),
        ("asked", ANSWER),
        ("good again", PASS),
    ]
    assert page.rows[1].evidence == "no answer: past its deadline"
    assert page.rows[2].evidence == "no answer: the process ended with 1: no more of this"
    assert page.has_failed


def test_a_child_that_never_starts_fails():
    page = Page()
    run_part(page, [sys.executable, "-c", "raise SystemExit('no driver')"], time.monotonic() + 20)
    assert [row.verdict for row in page.rows] == [FAIL] and "no driver" in page.rows[0].evidence


def test_lines_of_pytest_become_rows():
    text = """
tests/cuda/test_worlds.py::test_gpu_ranks[2-cuda:0-real-sums] PASSED
tests/cuda/test_worlds.py::test_gpu_ranks[2-cuda:0-real-views] SKIPPED (no views)
tests/cuda/test_worlds.py::test_gpu_ranks[2-cuda,cpu-real-sums] FAILED
tests/cuda/test_gpu.py::test_peers_hear[peer_of_a_fault-DeviceError] SKIPPED (no peer)
SKIPPED [1] tests/cuda/test_worlds.py:60: no views
FAILED tests/cuda/test_worlds.py::test_gpu_ranks[2-cuda,cpu-real-sums] - assert 1 == 2
"""
    rows = list(rows_of(text))
    assert [(row.check, row.device, row.verdict) for row in rows] == [
        ("gpu ranks", "cuda:0", PASS),
        ("gpu ranks", "cuda,cpu", FAIL),
        ("peers hear", "cuda", WAIVED),
    ]
    assert "1 skipped (no views)" in rows[0].evidence and "assert 1 == 2" in rows[1].evidence


def test_a_page_where_nothing_was_shown_is_a_failure():
    page = Page()
    assert page.has_failed
    page.add(Row("torch", "cuda:0", WAIVED, "not installed"))
    assert page.has_failed
    page.add(Row("copy", "cuda:0", PASS, "8 bytes"))
    assert not page.has_failed
