"""Kernels compile lazily and once, from any thread, for any function, and leave the process able to fork."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import numba
import pytest
from numba.core.codegen import JITCodeLibrary
from numba.core.errors import TypingError

from tests.kernels.kernel_memory import Buffer
from umem.errors import ConfigError
from umem.kernels import (
    c_callback,
    cpu_kernel,
    device_function,
    inlined_function,
    load_all,
    load_i64,
    store_i64,
)
from umem.kernels.build import code_cache, compile

NUM_THREADS = 8


@device_function
def doubled(value):
    """2 * value."""
    return 2 * value


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[compile.CpuKernel]:
    """The kernels that were compiled or loaded, in order."""
    kernels: list[compile.CpuKernel] = []
    original = compile.CpuKernel._compile

    def record(self: compile.CpuKernel, use_cache: bool) -> Any:
        kernels.append(self)
        return original(self, use_cache)

    monkeypatch.setattr(compile.CpuKernel, "_compile", record)
    return kernels


@inlined_function
def tripled(value):
    """3 * value."""
    return 3 * value


def test_inlined_functions_are_called_like_others() -> None:
    @cpu_kernel("int64(int64)")
    def kernel(value):
        return tripled(value) + doubled(tripled(value + 1))

    assert tripled(2) == 6
    assert kernel(2) == kernel.body(2) == 6 + 18
    assert not re.search(r"call\w*\s+\S*tripled", kernel.assembly())


@device_function
def checked(value):
    """`value`; ValueError, which carries it, where that is negative."""
    if value < 0:
        raise ValueError("negative", value)
    return value


def test_errors_of_device_functions_carry_their_values() -> None:
    @cpu_kernel("int64(int64)")
    def kernel(value):
        return checked(value)

    assert kernel(1) == 1
    with pytest.raises(ValueError, match="-3"):
        kernel(-3)


def test_only_kernels_become_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device function is part of each kernel that calls it, and is never called by itself."""
    finalised: list[str] = []
    original = JITCodeLibrary._finalize_specific

    def record(self: JITCodeLibrary) -> None:
        finalised.append(self.name)
        original(self)

    monkeypatch.setattr(JITCodeLibrary, "_finalize_specific", record)

    @device_function
    def outer(value):
        return doubled(value) + 1

    @cpu_kernel("int64(int64)")
    def kernel(value):
        return outer(value) + inlined(value)

    @inlined_function
    def inlined(value):
        return outer(value + 1)

    assert kernel(1) == 3 + 5
    assert [name.split(".")[-1] for name in finalised] == ["kernel"]


def test_nothing_is_compiled_before_it_is_needed(compiled: list[compile.CpuKernel]) -> None:
    @cpu_kernel("int64(int64)")
    def kernel(value):
        return value + 1

    assert compiled == []
    assert kernel(1) == 2
    assert kernel(2) == 3
    assert compiled == [kernel]


def test_without_numbas_compiler_no_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    @cpu_kernel("int64(int64)")
    def kernel(value):
        return value + 1

    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    with pytest.raises(ConfigError, match="NUMBA_DISABLE_JIT"):
        kernel(1)


def test_the_body_stays_a_plain_function() -> None:
    @cpu_kernel("int64(int64)")
    def kernel(value):
        return doubled(value) + 1

    assert doubled(4) == 8
    assert kernel.body(4) == kernel(4) == kernel.compiled(4) == 9
    assert kernel.__name__ == "kernel"
    assert doubled.__doc__ == "2 * value."


def test_many_threads_compile_once(compiled: list[compile.CpuKernel]) -> None:
    results: list[int] = []
    start = threading.Barrier(NUM_THREADS)

    @cpu_kernel("int64(int64)")
    def inner(value):
        return value * 3

    @cpu_kernel("int64(int64)")
    def outer(value):
        return inner(value) + 1

    def work(kernel: Callable[[int], int]) -> None:
        start.wait()
        results.append(kernel(5))

    threads = [threading.Thread(target=work, args=((inner, outer)[n % 2],)) for n in range(NUM_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [15] * (NUM_THREADS // 2) + [16] * (NUM_THREADS // 2)
    assert sorted(map(repr, compiled)) == sorted(map(repr, (inner, outer)))


def test_kernels_may_call_kernels() -> None:
    @cpu_kernel("int64(int64)")
    def inner(value):
        return value * 3

    @cpu_kernel("int64(int64)")
    def outer(value):
        return inner(value) + inner(value + 1)

    assert outer(1) == 9
    assert outer.body(1) == 9


def test_closures_freeze_their_values() -> None:
    def make(step: int) -> compile.CpuKernel:
        @cpu_kernel("int64(int64)")
        def advance(value):
            return value + step

        return advance

    assert [make(step)(10) for step in (1, 2, 3)] == [11, 12, 13]


def test_without_a_signature_a_kernel_is_specialised_by_its_arguments() -> None:
    @cpu_kernel()
    def add(a, b):
        return a + b

    assert add(1, 2) == 3
    assert add(0.5, 0.25) == 0.75
    assert len(add.compiled.signatures) == 2


def test_with_a_signature_other_types_are_refused() -> None:
    @cpu_kernel("int64(int64)")
    def kernel(value):
        return value

    assert kernel(True) == 1
    with pytest.raises(TypeError):
        kernel("text")
    assert len(kernel.compiled.signatures) == 1


def test_functions_without_a_file_compile_uncached() -> None:
    """What a notebook or an interactive prompt defines."""
    scope: dict[str, Any] = {"load_i64": load_i64, "doubled": doubled}
    exec("def kernel(base):\n    return doubled(load_i64(base, 1))\n", scope)
    buffer = Buffer(64)
    store_i64(buffer.address, 1, 21)
    assert code_cache.folder(scope["kernel"], "int64(int64)") is None
    assert cpu_kernel("int64(int64)")(scope["kernel"])(buffer.address) == 42


def test_functions_of_a_module_that_cannot_be_imported_compile_uncached() -> None:
    """What a file loaded by path defines: Numba would import its module when it loads the compiled form."""

    def helper(value):
        return value + 1

    helper.__module__ = "loaded_by_path"
    device_function(helper)

    def body(value):
        return helper(value)

    assert code_cache.folder(body, "int64(int64)") is None
    assert cpu_kernel("int64(int64)")(body)(1) == 2


def test_an_unwritable_cache_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    monkeypatch.setenv("UMEM_CACHE", str(blocker))

    @cpu_kernel("int64()")
    def kernel():
        return 7

    assert kernel() == 7


def test_a_body_that_cannot_compile_names_its_fault_at_first_use() -> None:
    @cpu_kernel("int64(int64)")
    def broken(value):
        return value.no_such_thing

    for _ in range(2):  # a failed compile leaves nothing half done
        with pytest.raises(TypingError, match="no_such_thing"):
            broken(1)


def test_a_callback_has_one_address() -> None:
    @c_callback("int64(int64, int64, int64)")
    def answer(request, reply, context):
        store_i64(reply, 0, doubled(load_i64(request, 0)) + context)
        return 0

    buffer = Buffer(64)
    store_i64(buffer.address, 0, 5)
    assert answer.address == answer.address
    assert answer.ctypes(buffer.address, buffer.address + 8, 1) == 0
    assert load_i64(buffer.address, 1) == 11
    assert answer.body(buffer.address, buffer.address + 16, 2) == 0
    assert load_i64(buffer.address, 2) == 12


def test_load_all_takes_the_asked_groups_under_the_prefix() -> None:
    def make(module: str, group: str, result: int) -> compile.CpuKernel:
        def body():
            return result

        body.__module__ = module
        return cpu_kernel("int64()", group=group)(body)

    core = make("sample.kernels.one", "core", 1)
    library = make("sample.kernels.two", "library", 2)
    other = make("sample_other", "core", 3)
    assert load_all("sample") == 1
    assert (core._ready is not None, library._ready, other._ready) == (True, None, None)
    assert load_all("sample", groups=("core", "library")) == 2
    assert library._ready is not None


LOAD_ALL = """
import os
from umem.kernels import cpu_kernel, fetch_add_i64, load_all

def body(base):
    return fetch_add_i64(base, 0, 1)

kernels = [cpu_kernel("int64(int64)")(body) for _ in range(3)]
before = len(os.listdir("/proc/self/task"))
print(load_all("__main__"), before, len(os.listdir("/proc/self/task")))
"""


def test_load_all_starts_no_thread(run_python: Callable[..., Any]) -> None:
    for _ in ("compiled", "loaded from the cache"):
        assert run_python(LOAD_ALL, OPENBLAS_NUM_THREADS="1").stdout.split() == ["3", "1", "1"]


IMPORTS = """
import sys
import umem.kernels
print([name for name in sys.modules if name.split(".")[:2] == ["numba", "cuda"] or name == "cuda"])
"""


def test_the_package_loads_nothing_of_cuda(run_python: Callable[..., Any]) -> None:
    assert run_python(IMPORTS).stdout.strip() == "[]"


def test_every_export_is_there() -> None:
    import umem.kernels

    assert len(set(umem.kernels.__all__)) == len(umem.kernels.__all__)
    missing = [name for name in umem.kernels.__all__ if not hasattr(umem.kernels, name)]
    assert missing == []
