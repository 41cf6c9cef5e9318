"""Options that cannot be used end with exit code 2 and one line that has the value and the known ones."""

from __future__ import annotations

import errno
import re
import subprocess
import sys

import pytest

from umem.cli import app

BAD = {
    "unknown case": (["bench", "nonsense"], "unknown case 'nonsense'; known: agent"),
    "unknown semantics": (
        ["bench", "--semantics", "telepathy"],
        "unknown semantics 'telepathy'; known: load_store",
    ),
    "unknown peer": (["bench", "--peers", "pigeons"], "unknown peer 'pigeons'; known: ucx_perftest"),
    "unknown world": (["bench", "--world", "flat"], "unknown world 'flat'; known: mapped"),
    "unknown world of the verdict": (["verdict", "--world", "flat"], "unknown world 'flat'"),
    "unknown world of info": (["info", "--world", "flat"], "unknown world 'flat'"),
    "size suffix": (["bench", "-e", "64Q"], "size '64Q' is not a number with K, M, G or T"),
    "empty sweep": (["bench", "-b", "1M", "-e", "8"], "none lies between"),
    "factor": (["bench", "-f", "1"], "does not end"),
    "no ranks": (["bench", "--ranks", "0"], "0 ranks"),
    "unknown group of bars": (
        ["bench", "--bars", "nonsense"],
        "unknown group of bars 'nonsense'; known: foundation",
    ),
    "folder that is not there": (
        ["bench", "latency.line", "--json", "/nonsense/x.json"],
        "no folder /nonsense",
    ),
    "folder that takes no file": (["info", "--json", "/proc/x.json"], "/proc/x.json cannot be written"),
    "file that is a folder": (["verdict", "--report", "/proc/self"], "/proc/self cannot be written"),
    "picture of no kind": (["bench", "latency.line", "--plot", "x.txt"], "a picture ends in .png"),
    "results that are not there": (
        ["bench", "--compare", "/nonsense/a", "/nonsense/b"],
        "/nonsense/a cannot be read",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_option_is_refused(name, capsys):
    arguments, text = BAD[name]
    assert app.main(arguments) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_no_arguments_show_the_help(capsys):
    app.main([])
    captured = capsys.readouterr()
    assert "verdict" in captured.out + captured.err


def test_an_option_that_does_not_exist_is_refused(capsys):
    assert app.main(["bench", "--nonsense"]) == 2
    assert "--nonsense" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["info", "verdict", "bench"])
def test_every_command_has_help(command, capsys):
    assert app.main([command, "--help"]) == 0
    assert "--world" in capsys.readouterr().out


def test_cases_are_listed(capsys):
    assert app.main(["bench", "--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"latency.line", "bandwidth.copy", "anatomy", "gather_sum"} <= set(listed)
    assert listed == sorted(listed)


def test_the_installed_command_reports_errors_by_its_exit_code():
    command = [sys.executable, "-m", "umem", "bench", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_disk_that_runs_full_meanwhile_is_one_line(monkeypatch, capsys):
    def run_out(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "journal")

    monkeypatch.setattr("umem.cli.info.show", run_out)
    assert app.main(["info"]) == 1
    assert re.fullmatch(
        r"umem: .*No space left on device: 'journal'; make room .*\n", capsys.readouterr().err
    )
