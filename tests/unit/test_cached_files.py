"""What is compiled is kept in the user's own folder, or in one that is this user's alone, or that is said."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from umem import config
from umem.files import cached


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The user's own root and two temporary ones, none of which stands."""
    roots = [tmp_path / "own" / "umem", tmp_path / "first", tmp_path / "second"]
    monkeypatch.setattr(config, "cache_roots", lambda: roots)
    forget()
    yield roots
    forget()


def forget() -> None:
    cached.why_unusable.cache_clear()
    cached._say_once.cache_clear()
    cached._refused.clear()


def make_unusable(root: Path) -> None:
    root.parent.mkdir(exist_ok=True)
    root.touch()


def test_the_users_own_folder_comes_first(roots: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cached.folder("key/kernel", "ready") == roots[0] / "key/kernel"
    assert (roots[0] / "key/kernel").is_dir()
    assert not roots[1].exists()
    assert capsys.readouterr().err == ""


def test_without_it_another_is_named_once(roots: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    make_unusable(roots[0])
    assert cached.folder("kernel", "ready") == roots[1] / "kernel"
    told = capsys.readouterr().err
    assert str(roots[0]) in told and str(roots[1]) in told and cached.WAY_OUT in told
    assert told.count("\n") == 1
    assert cached.folder("other kernel", "ready") == roots[1] / "other kernel"
    assert capsys.readouterr().err == ""
    assert roots[1].stat().st_mode & 0o077 == 0


def test_what_stands_ready_there_is_used_in_silence(
    roots: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_unusable(roots[0])
    (roots[1] / "kernel").mkdir(parents=True)
    (roots[1] / "kernel/ready").touch()
    assert cached.folder("kernel", "ready") == roots[1] / "kernel"
    assert capsys.readouterr().err == ""


def test_a_folder_that_is_ready_need_not_be_writable(
    roots: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (roots[0] / "kernel").mkdir(parents=True)
    (roots[0] / "kernel/ready").touch()
    monkeypatch.setattr(cached.os, "access", lambda *_: False)
    assert cached.folder("kernel", "ready") == roots[0] / "kernel"
    assert cached.folder("other kernel", "ready") is None


def test_a_folder_that_others_can_write_is_not_trusted(
    roots: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_unusable(roots[0])
    roots[1].mkdir()
    roots[1].chmod(0o777)
    (roots[1].parent / "elsewhere").mkdir()
    roots[2].symlink_to(roots[1].parent / "elsewhere")
    assert cached.folder("kernel", "ready") is None
    assert "not kept" in capsys.readouterr().err


def test_a_full_disk_is_known_before_or_when_it_takes_no_file(
    roots: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cached.folder("kernel", "ready")
    assert path == roots[0] / "kernel"
    cached.give_up(path, OSError(errno.ENOSPC, "No space left on device"))
    assert cached.folder("kernel", "ready") == roots[1] / "kernel"
    forget()
    monkeypatch.setattr(cached, "MIN_FREE_BYTES", 1 << 62)
    assert cached.folder("kernel", "ready") is None
