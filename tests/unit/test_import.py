"""The public door: what `import umem` gives, and that it costs next to nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import umem

MAX_MODULES = 12  # of umem itself and what the standard library brings for it


def fresh_interpreter(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_import_umem_executes_next_to_nothing():
    """Counted in modules, not in seconds: 0.1 s is a bar of the benchmark, this is what keeps it."""
    count = fresh_interpreter(
        "import sys; before = set(sys.modules); import umem; print(len(set(sys.modules) - before))"
    )
    assert int(count) <= MAX_MODULES


@pytest.mark.parametrize("name", umem.__all__)
def test_every_public_name_loads(name):
    assert getattr(umem, name) is not None
    assert name in dir(umem)


def test_umem_torch_is_there_after_import_umem_and_loads_no_torch():
    out = fresh_interpreter("import sys, umem; print(umem.torch.__name__, 'torch' in sys.modules)")
    assert out.split() == ["umem.torch", "False"]


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = umem.no_such_name


def test_kernels_and_bench_are_part_of_the_package():
    import umem.bench
    import umem.kernels

    assert umem.kernels.__name__ == "umem.kernels" and umem.bench.__name__ == "umem.bench"


def test_user_kernels_find_the_intrinsics_by_one_import():
    out = fresh_interpreter(
        "from umem.kernels import load_acquire_i64, store_release_i64, fetch_add_i64, compare_swap_i64\n"
        "from umem.kernels import load_f32, store_f32, fence_seq_cst, pause, cpu_kernel\nprint('ok')"
    )
    assert out.strip() == "ok"


def test_free_threaded_python_is_refused_by_name():
    told = fresh_interpreter(
        "import sys; sys.abiflags = 't'\ntry: import umem\nexcept ImportError as error: print(type(error), error)"
    )
    assert "UnsupportedPython" in told and "free-threaded" in told
