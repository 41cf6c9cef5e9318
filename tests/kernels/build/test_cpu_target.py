"""A kernel brings no SciPy along, and programs that need it have what it is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

SCRIPT = """
import sys
import numba
import numpy as np
from umem.kernels import cpu_kernel

@cpu_kernel("int64(int64)")
def twice(number):
    return 2 * number

@numba.njit
def product(a, b):
    return np.dot(a, b)

assert twice(21) == 42
print("scipy.linalg" in sys.modules)
print(product(np.full((2, 2), 3.0), np.eye(2)).tolist())
print("scipy.linalg" in sys.modules)
"""


def test_scipy_is_imported_by_who_multiplies_matrices_and_by_no_kernel(
    run_python: Callable[..., Any],
) -> None:
    pytest.importorskip("scipy")
    printed = run_python(SCRIPT).stdout.splitlines()
    assert printed == ["False", "[[3.0, 3.0], [3.0, 3.0]]", "True"]


WITHOUT = """
import sys
sys.modules["scipy"] = None  # as where it is not installed
from umem.kernels import cpu_kernel

@cpu_kernel("int64(int64)")
def twice(number):
    return 2 * number

assert twice(21) == 42
from numba.np import arraymath
print(arraymath._HAVE_BLAS)
"""


def test_without_scipy_numba_knows_that_there_is_no_blas(run_python: Callable[..., Any]) -> None:
    assert run_python(WITHOUT).stdout.strip() == "False"
