"""Compiled code is reused across processes, compiled once by many, and never outlives its sources."""

from __future__ import annotations

import ast
import errno
import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from numba.core.caching import IndexDataCacheFile

import umem.kernels
from umem import config
from umem.files import cached
from umem.kernels.build import code_cache, compile

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 90
NUM_PROCESSES = 3

SOURCES = {
    "sample_kernel.py": """
import sample_helpers, sample_settings
from sample_settings import FACTOR, Layout
from sample_helpers import weigh
from umem.kernels import cpu_kernel

@cpu_kernel("int64(int64)")
def kernel(value):
    return weigh(value) * FACTOR + sample_settings.OFFSET + Layout.HEADER

if __name__ == "__main__":
    result = kernel(10)
    stats = kernel.compiled.stats
    print(result, sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
""",
    "sample_helpers.py": """
from umem.kernels import device_function
from sample_deeper import deepest

@device_function
def weigh(value):
    return deepest(value) + 1
""",
    "sample_deeper.py": """
from umem.kernels import device_function

@device_function
def deepest(value, scale=1):
    return value * scale
""",
    "sample_settings.py": """
from enum import IntEnum

FACTOR = 2
OFFSET = 100
UNRELATED = 1

class Layout(IntEnum):
    HEADER = 1000
""",
}
RESULT = (10 + 1) * 2 + 100 + 1000
EDITS = {
    "device function": ("sample_helpers.py", "+ 1", "+ 2"),
    "device function below it": ("sample_deeper.py", "value * scale", "value * scale - 1"),
    "default argument": ("sample_deeper.py", "scale=1", "scale=3"),
    "imported constant": ("sample_settings.py", "FACTOR = 2", "FACTOR = 5"),
    "module attribute": ("sample_settings.py", "OFFSET = 100", "OFFSET = 200"),
    "enum member": ("sample_settings.py", "HEADER = 1000", "HEADER = 3000"),
    "body": ("sample_kernel.py", "weigh(value) *", "-weigh(value) *"),
}


class Project:
    """A user's folder of modules, whose kernel runs in fresh processes with one kernel cache."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name, text in SOURCES.items():
            (folder / name).write_text(text)

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert old in text
        (self.folder / name).write_text(text.replace(old, new))

    def start(self, **variables: str) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "UMEM_CACHE": str(self.folder / "cache"),
            "PYTHONDONTWRITEBYTECODE": "1",  # an edit within the same second must be seen
            **variables,
        }
        command = [sys.executable, str(self.folder / "sample_kernel.py")]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, **variables: str) -> tuple[int, int, int]:
        """Result, cache hits and cache misses of the kernel in a fresh process."""
        return finish(self.start(**variables))


def finish(process: subprocess.Popen[str]) -> tuple[int, int, int]:
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    result, hits, misses = map(int, out.split())
    return result, hits, misses


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def fresh_imports(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The project's modules can be imported in this process, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(project.folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    forget_samples()


def forget_samples() -> None:
    for name in [name for name in sys.modules if name.startswith("sample_")]:
        del sys.modules[name]
    importlib.invalidate_caches()


def folder_of_sample_kernel() -> Path | None:
    forget_samples()
    kernel = importlib.import_module("sample_kernel").kernel
    return code_cache.folder(kernel.body, kernel.signature)


def test_processes_share_what_one_compiled_until_an_edit(project: Project) -> None:
    assert project.run() == (RESULT, 0, 1)
    assert project.run() == (RESULT, 1, 0)
    project.edit("sample_deeper.py", "value * scale", "value * scale + 4")
    assert project.run() == (RESULT + 8, 0, 1)


@pytest.mark.usefixtures("fresh_imports")
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_anywhere_below_a_kernel_moves_it(project: Project, edit: tuple[str, str, str]) -> None:
    before = folder_of_sample_kernel()
    assert before is not None
    assert folder_of_sample_kernel() == before  # it is the edit that moves it
    project.edit(*edit)
    after = folder_of_sample_kernel()
    assert after is not None
    assert after != before


@pytest.mark.usefixtures("fresh_imports")
def test_an_edit_of_what_the_kernel_does_not_use_leaves_it(project: Project) -> None:
    before = folder_of_sample_kernel()
    project.edit("sample_settings.py", "UNRELATED = 1", "UNRELATED = 2")
    assert folder_of_sample_kernel() == before


def test_another_build_and_another_cpu_have_code_of_their_own(project: Project) -> None:
    project.run()
    assert project.run(UMEM_BUILD="faults") == (RESULT, 0, 1)
    assert project.run(NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="") == (RESULT, 0, 1)
    assert project.run() == (RESULT, 1, 0)


def test_an_edit_of_the_intrinsics_recompiles(project: Project) -> None:
    package = project.folder / "package" / "umem"
    shutil.copytree(ROOT / "umem", package, ignore=shutil.ignore_patterns("__pycache__"))
    path = str(package.parent)
    assert project.run(PYTHONPATH=path)[1:] == (0, 1)
    assert project.run(PYTHONPATH=path)[1:] == (1, 0)
    with open(package / "kernels" / "intrinsics" / "scalar.py", "a") as file:
        file.write("\n# an edit\n")
    assert project.run(PYTHONPATH=path)[1:] == (0, 1)


def test_the_lowering_key_covers_every_module_that_lowers() -> None:
    """All that compile.py and register_cpu.py import of this package, directly or not."""
    found: set[str] = set()
    queue = [("build", "compile")]
    while queue:
        room, name = queue.pop()
        if f"{room}/{name}" in found:
            continue
        found.add(f"{room}/{name}")
        for node in ast.walk(ast.parse((ROOT / "kernels" / room / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                room_of_target, _, module = f"{room if node.level == 1 else ''}.{node.module or ''}".strip(
                    "."
                ).partition(".")
                queue += [(room_of_target, module or alias.name) for alias in node.names]
    plain_python_only = {"intrinsics/machine"}
    assert found - plain_python_only == set(code_cache.LOWERING_SOURCES)


def test_processes_that_start_together_compile_once(project: Project) -> None:
    processes = [project.start() for _ in range(NUM_PROCESSES)]
    outcomes = [finish(process) for process in processes]
    assert {result for result, _, _ in outcomes} == {RESULT}
    assert sum(misses for _, _, misses in outcomes) == 1


def test_a_compiler_that_died_blocks_nobody(tmp_path: Path) -> None:
    """Its lock file and half a result remain; the lock itself went with the process."""
    (tmp_path / "lock").touch()
    with code_cache.first_compile(tmp_path):
        assert not code_cache.is_ready(tmp_path)
    assert code_cache.is_ready(tmp_path)


def test_a_failed_compile_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), code_cache.first_compile(tmp_path):
        raise ZeroDivisionError
    assert not code_cache.is_ready(tmp_path)


def test_a_cache_that_cannot_be_written_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba writes a file to its folder before it reads from it."""
    monkeypatch.setattr(config, "cache_roots", lambda: [tmp_path])

    def body(value):
        return value + 1

    assert compile.CpuKernel(body, "int64(int64)", "core")(1) == 2

    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(IndexDataCacheFile, "_open_for_write", refuse)
    kernel = compile.CpuKernel(body, "int64(int64)", "core")
    assert kernel(1) == 2
    assert sum(kernel.compiled.stats.cache_hits.values()) == 1


def test_a_disk_that_is_full_costs_the_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = [tmp_path / "full", tmp_path / "other"]
    monkeypatch.setattr(config, "cache_roots", lambda: roots)
    original = IndexDataCacheFile.save

    def save(self: IndexDataCacheFile, key: object, data: object) -> None:
        if Path(self._cache_path).is_relative_to(roots[0]):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, key, data)

    monkeypatch.setattr(IndexDataCacheFile, "save", save)

    def body(value):
        return value + 1

    kernel = compile.CpuKernel(body, "int64(int64)", "core")
    try:
        assert kernel(1) == 2
        assert kernel.folder is not None and kernel.folder.is_relative_to(roots[1])
        assert code_cache.is_ready(kernel.folder)
    finally:
        cached.why_unusable.cache_clear()


MANY = """
import sys
from umem.kernels import cpu_kernel
from umem.kernels.build.precompile import precompile

def make(step):
    @cpu_kernel("int64(int64)")
    def advance(value):
        return value + step
    return advance

kernels = [make(step) for step in range(5)]
print(precompile("__main__"), precompile("__main__", min_missing=1), precompile("__main__", min_missing=1))
print(sum(sum(kernel.compiled.stats.cache_hits.values()) for kernel in kernels))
"""


FIRST_USE = """
from umem.kernels import cpu_kernel
from umem.kernels.build import compile
from umem.kernels.build.precompile import compile_here

@cpu_kernel("int64(int64)", group="sample")
def advance(value):
    return value + 1

told = []
compile.observe(told.append)
for _ in range(2):
    compile_here("sample", "samples", prefix="__main__")
print(*told, sum(advance.compiled.stats.cache_misses.values()))
"""


def test_a_first_use_compiles_in_one_process_and_says_so(tmp_path: Path) -> None:
    """The others wait, which is as if they compiled, and find the result."""
    (tmp_path / "script.py").write_text(FIRST_USE)
    environment = {**os.environ, "UMEM_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, str(tmp_path / "script.py")]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outcomes = [process.communicate(timeout=TIMEOUT_S) for process in processes]
    assert [err for _, err in outcomes if err] == [
        "umem: compiling 1 kernels for samples, once on this machine\n"
    ]
    compiler = next(out for out, err in outcomes if err)
    assert compiler.split() == ["True", "False", "1"]


def test_what_is_missing_is_compiled_on_all_cores_and_said(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Few are left to whoever loads them; nothing is compiled twice, or left."""
    done = run_python(MANY)
    assert done.stdout.split() == ["5", "5", "0", "5"]
    assert done.stderr == "umem: compiling 5 kernels, once on this machine\n"


def test_constants_of_many_kinds_are_told_apart_by_value() -> None:
    def fingerprint(value: object) -> bytes:
        def body():
            return value

        return code_cache.fingerprint(body)

    values = [1, 2, 1.0, True, None, "a", b"a", (1, 2), (1, (2,)), [1, 2], frozenset({1}), range(3), range(4)]
    assert len({fingerprint(value) for value in values}) == len(values)
    assert all(fingerprint(value) == fingerprint(value) for value in values)


def test_what_has_no_stable_value_is_not_cached() -> None:
    handle = object()

    def body():
        return handle

    with pytest.raises(code_cache.NotCacheable):
        code_cache.fingerprint(body)
    assert code_cache.folder(body, "int64()") is None


def test_all_kernels_of_the_package_are_cached() -> None:
    for module in pkgutil.iter_modules(umem.kernels.__path__):
        if module.name != "register_cuda":
            importlib.import_module(f"umem.kernels.{module.name}")
    ours = [lazy for lazy in compile.REGISTRY if str(lazy.__module__).startswith("umem.")]
    assert ours
    assert [lazy for lazy in ours if code_cache.folder(lazy.body, lazy.signature) is None] == []
