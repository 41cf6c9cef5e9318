"""Numba's CPU target, which a process sets up once, with the first kernel that it compiles or loads."""

from __future__ import annotations

import functools
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from numba.np import linalg


@functools.cache
def set_up() -> None:
    """Import what Numba knows of NumPy, and not scipy.linalg, which takes as long as all else of it together.

    Numba imports it, where SciPy is installed, to see whether there is a BLAS for np.dot and its like. Here that
    is looked up; a program that compiles one of those imports it then.
    """
    looks_by_importing = linalg.ensure_blas
    linalg.ensure_blas = _look_for_blas
    try:
        from numba.np import arraymath  # it looks while it is imported, and never again
    finally:
        linalg.ensure_blas = looks_by_importing
    assert arraymath


def _look_for_blas() -> None:
    """Raise ImportError where no BLAS could be imported from SciPy."""
    scipy = find_spec("scipy")
    places = [] if scipy is None else scipy.submodule_search_locations or []
    folders = [str(Path(place) / "linalg") for place in places]
    if PathFinder.find_spec("scipy.linalg.cython_blas", folders) is None:
        raise ImportError("there is no SciPy, or it has no BLAS")
