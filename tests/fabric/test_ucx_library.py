"""Which libucp is used, why, and the line that fixes a missing or an old one."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from umem import config
from umem.errors import FabricMissing
from umem.fabric.ucx import library, tools

HAS_WHEEL = library._wheel() is not None
needs_wheel = pytest.mark.skipif(not HAS_WHEEL, reason="the package libucx is not installed")


def fake_ucx(folder: Path, has_verbs: bool = False) -> Path:
    """A folder that looks like UCX's libraries."""
    (folder / "ucx").mkdir(parents=True)
    for name in library.LOAD_ORDER:
        (folder / name).touch()
    if has_verbs:
        (folder / "ucx" / "libuct_ib.so.0").touch()
    return folder


def fake_port(root: Path, state: str) -> Path:
    port = root / "mlx5_0" / "ports" / "1"
    port.mkdir(parents=True)
    (port / "state").write_text(state)
    return root


def run_python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**config.snapshot(), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_path_is_taken_as_file_folder_or_prefix(tmp_path):
    folder = fake_ucx(tmp_path / "lib")
    for given in (folder, folder / "libucp.so.0", tmp_path):
        choice = library.choose(str(given))
        assert (choice.kind, choice.folder) == ("path", folder)


def test_a_path_without_ucx_is_missing_with_the_line_that_fixes_it(tmp_path):
    with pytest.raises(FabricMissing, match=r"does not hold libucs.*pip install 'umem\[ucx\]'"):
        library.choose(str(tmp_path))


@pytest.mark.parametrize(
    ("state", "has_verbs", "kind"),
    [("4: ACTIVE", True, "system"), ("1: DOWN", True, "wheel"), ("4: ACTIVE", False, "wheel")],
)
def test_auto_takes_the_system_only_for_a_live_port_that_it_can_use(
    tmp_path, monkeypatch, state, has_verbs, kind
):
    wheel, system = fake_ucx(tmp_path / "wheel"), fake_ucx(tmp_path / "system", has_verbs)
    ports = fake_port(tmp_path / "infiniband", state)
    monkeypatch.setattr(library, "_wheel", lambda: library.Choice("wheel", wheel, ""))
    monkeypatch.setattr(library, "_system", lambda: library.Choice("system", system, ""))
    found = library.live_rdma_ports(ports)
    monkeypatch.setattr(library, "live_rdma_ports", lambda: found)
    choice = library.choose("auto")
    assert choice.kind == kind
    assert choice.why.startswith("auto: ")
    assert ("mlx5_0:1" in choice.why) == (kind == "system")


def test_auto_falls_back_to_the_system_and_then_to_missing(tmp_path, monkeypatch):
    system = fake_ucx(tmp_path / "system")
    monkeypatch.setattr(library, "_wheel", lambda: None)
    monkeypatch.setattr(library, "_system", lambda: library.Choice("system", system, ""))
    assert library.choose("auto").kind == "system"
    monkeypatch.setattr(library, "_system", lambda: None)
    with pytest.raises(FabricMissing, match="scripts/setup ucx"):
        library.choose("auto")
    for kind in ("wheel", "system"):
        with pytest.raises(FabricMissing, match=f"UMEM_UCX={kind}"):
            library.choose(kind)


@needs_wheel
def test_a_library_older_than_its_interface_is_refused_with_both_versions():
    code = (
        "from umem.fabric.ucx import library\n"
        "library.version = lambda ucp: (1, 12, 1)\n"
        "try:\n    library.load()\nexcept library.FabricMissing as error:\n    print(error)\n"
    )
    printed = run_python(code).stdout
    assert "version 1.12.1" in printed
    assert "1.13 or newer" in printed
    assert "pip install" in printed


@needs_wheel
def test_without_ucx_the_compiled_loops_load_over_stubs_that_refuse(tmp_path):
    code = (
        "from umem.fabric.ucx import calls, operations, waiting\n"
        "from umem.kernels.build.compile import c_callback, cpu_kernel, load_all\n"
        "@c_callback('int64()', group='ucx')\ndef refuse():\n    return calls.STUB_RESULT\n"
        "assert calls.bind(refuse.address) is False\n"
        "load_all(groups=('ucx',))\n"
        "flush = calls.endpoint_flush\n"
        "@cpu_kernel('int64()')\ndef call():\n    return flush(0, 0)\n"
        "print(call())\n"
    )
    done = run_python(code, UMEM_UCX=str(tmp_path))
    assert done.stdout.strip() == "-22", done.stderr


@needs_wheel
def test_describe_names_library_version_and_transports():
    report = tools.describe()
    assert report.path.endswith("libucp.so.0")
    assert report.version.startswith("1.")
    assert {"tcp", "self"} <= set(report.transports)
    assert report.fix == ""


def test_describe_of_a_missing_library_is_the_line_that_fixes_it(tmp_path):
    code = "from umem.fabric.ucx.tools import describe\nprint(describe().kind, describe().fix)"
    assert run_python(code, UMEM_UCX=str(tmp_path)).stdout.startswith("none pip install 'umem[ucx]'")


@needs_wheel
def test_perftest_runs_with_and_without_the_execute_bit(tmp_path):
    choice = library.choose("wheel")
    program = choice.folder.parent / "bin" / "ucx_perftest"
    copy = tmp_path / "libucx" / "bin" / "ucx_perftest"
    copy.parent.mkdir(parents=True)
    shutil.copy(program, copy)
    (tmp_path / "libucx" / "lib").symlink_to(choice.folder)
    for bundled in choice.folder.parent.parent.glob("*.libs"):  # found relative to the program
        (tmp_path / bundled.name).symlink_to(bundled)
    for mode in (stat.S_IRUSR, stat.S_IRUSR | stat.S_IXUSR):
        copy.chmod(mode)
        argv, environment = tools.perftest_command(library.Choice("wheel", tmp_path / "libucx" / "lib", ""))
        assert argv[-1] == str(copy)
        assert (argv[0] == str(copy)) == os.access(copy, os.X_OK)
        printed = subprocess.run(
            [*argv, "-h"], env=environment, capture_output=True, text=True, timeout=20, check=False
        )
        assert "tag_lat" in printed.stdout + printed.stderr


def test_a_ucx_without_its_programs_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "tool_command", lambda name, choice: None)
    with pytest.raises(FabricMissing, match="has no ucx_perftest"):
        tools.perftest_command(library.Choice("path", tmp_path, ""))


def test_importing_umem_imports_none_of_this():
    done = run_python("import umem, sys; print([m for m in sys.modules if 'ucx' in m or m == 'numba'])")
    assert done.stdout.strip() == "[]", done.stderr
