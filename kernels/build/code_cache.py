"""Where compiled code is kept, and what must change for it to be compiled again.

Numba's own cache looks at the kernel's file alone. A kernel also depends on the device functions and
constants it refers to, and on the lowering of the intrinsics. So each kernel has a folder of its own:

    <cache>/<lowering key>/<kernel name>-<fingerprint>/

The lowering key hashes this package's sources, the versions of Python, Numba and llvmlite, the CPU and the
build. The fingerprint hashes the kernel's file, its bytecode, and everything that the bytecode names,
followed through other functions and modules: code by its bytecode, constants by their value. A kernel that
names something without a stable value (an open file, a C function pointer), or a function whose module
cannot be imported by name, is not cached.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import platform
import sys
import types as python_types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
from numba.core import types
from numba.core.caching import UserProvidedCacheLocator
from numba.core.dispatcher import Dispatcher

from umem import config
from umem.files import cached

from ..intrinsics.table import TABLE

# Whatever stands here decides how a kernel is lowered. Device functions and kernels are not in it: they
# are in the fingerprints of those who use them.
LOWERING_SOURCES = tuple(
    f"{room}/{name}"
    for room, names in {
        "build": ("code_cache", "compile", "cpu_target", "link"),
        "intrinsics": (
            *("elements", "faults", "lower_cpu", "lower_narrow", "lower_vector", "register_cpu"),
            *("scalar", "system", "table", "typing_rules", "vector", "whole"),
        ),
    }.items()
    for name in names
)
KERNELS_FOLDER = Path(__file__).parents[1]
READY_FILE = "ready"  # file of a folder that a kernel was compiled into
_PLAIN = (int, float, complex, str, bytes, bool, type(None), type(Ellipsis), range, slice)


class NotCacheable(Exception):
    """A kernel refers to something without a stable value."""


@functools.cache
def lowering_key() -> str:
    """Hash of all that decides the lowering: sources of this package, versions, CPU, build."""
    digest = hashlib.sha256()
    for name in LOWERING_SOURCES:
        digest.update((KERNELS_FOLDER / f"{name}.py").read_bytes())
    features = llvm.get_host_cpu_features().flatten()
    numba_cpu = (numba.config.CPU_NAME, numba.config.CPU_FEATURES, numba.config.OPT)
    versions = (platform.python_version(), numba.__version__, llvmlite.__version__)
    digest.update(repr((versions, llvm.get_host_cpu_name(), features, numba_cpu, config.build())).encode())
    return digest.hexdigest()[:24]


def folder(body: python_types.FunctionType, signature: object, key: str | None = None) -> Path | None:
    """Folder for the compiled form of `body` under `key` (the CPU's lowering key), made if missing.

    None where it cannot be cached: it has no file (a notebook), it refers to something without a stable value,
    or no folder can be written.
    """
    source = Path(body.__code__.co_filename)
    if not source.is_file():
        return None
    digest = hashlib.sha256(f"{source}\n{signature}\n".encode())
    digest.update(source.read_bytes())
    try:
        digest.update(fingerprint(body))
    except NotCacheable:
        return None
    name = f"{body.__module__}.{body.__qualname__}".replace("<locals>", "")[-80:]
    return cached.folder(f"{key or lowering_key()}/{name}-{digest.hexdigest()[:24]}", READY_FILE)


def is_ready(path: Path) -> bool:
    """True after some process has compiled into this folder."""
    return (path / READY_FILE).exists()


@contextmanager
def first_compile(path: Path) -> Iterator[None]:
    """Let one process compile into `path`; others wait here, and then find the result."""
    if is_ready(path):
        yield
        return
    with turn(path):
        yield
        (path / READY_FILE).touch()


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Let one process of the machine into the block at a time, by a lock in the folder `path`."""
    with open(path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # freed by the system if its holder dies
        yield


def machine_folder() -> Path | None:
    """The folder of all kernels that are lowered as here; None where none can be written."""
    return cached.folder(lowering_key(), READY_FILE)


class KernelLocator(UserProvidedCacheLocator):
    """Numba's files of a kernel lie in `numba.config.CACHE_DIR`, which need not be writable where they are there."""

    def ensure_cache_path(self) -> None:
        """Make the folder, if it is missing; Numba would also write to it."""
        os.makedirs(self.get_cache_path(), exist_ok=True)


@contextmanager
def numba_files(path: Path) -> Iterator[None]:
    """Have Numba keep in `path` what it compiles inside the block; kernels that were made in it go on to use `path`."""
    numba_config = numba.config
    before = numba_config.CACHE_DIR, numba_config.CACHE_LOCATOR_CLASSES
    numba_config.CACHE_DIR = str(path)
    numba_config.CACHE_LOCATOR_CLASSES = f"{__name__}.{KernelLocator.__name__}"
    try:
        yield
    finally:
        numba_config.CACHE_DIR, numba_config.CACHE_LOCATOR_CLASSES = before


def fingerprint(function: python_types.FunctionType) -> bytes:
    """Hash of `function` and all it refers to; NotCacheable where that has no stable value."""
    walk = _Walk()
    walk.value(function)
    return walk.digest.digest()


class _Walk:
    """Feeds everything reachable from a function into one hash, each object once."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.seen: dict[object, object] = {}  # keeps objects alive, so that an id stays theirs

    def text(self, *parts: object) -> None:
        self.digest.update((repr(parts) + "\n").encode())

    def value(self, value: Any, names: frozenset[str] = frozenset()) -> None:
        """Hash `value`; of a module or class only the attributes in `names`, which the code refers to."""
        if isinstance(value, _PLAIN):
            self.text(type(value).__name__, value)
        elif isinstance(value, (tuple, list)):
            self.text(type(value).__name__, len(value))
            for item in value:
                self.value(item, names)
        elif isinstance(value, (set, frozenset)):
            self.text(type(value).__name__, sorted(map(repr, value)))
        elif isinstance(value, (python_types.ModuleType, type)):
            self.namespace(value, names)
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            self.text("array", value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest())
        elif isinstance(value, (np.generic, np.dtype)):
            self.text(type(value).__name__, repr(value))
        elif isinstance(value, types.Type):
            self.text("numba type", str(value))
            if isinstance(value, types.ExternalFunction):
                self.text(value.symbol)
        elif isinstance(value, python_types.BuiltinFunctionType):
            self.text("builtin", value.__module__, value.__qualname__)
        else:
            self.callable(value)

    def namespace(self, value: Any, names: frozenset[str]) -> None:
        self.text("namespace", getattr(value, "__name__", ""))
        if value.__name__.split(".")[0] in ("numpy", "math", "builtins", "numba", "operator"):
            return  # their versions are in the lowering key, or in Python's
        for name in sorted(names):
            key = (id(value), name)
            if hasattr(value, name) and key not in self.seen:
                self.seen[key] = value
                self.text("attribute", name)
                self.value(getattr(value, name), names)

    def callable(self, value: Any) -> None:
        if isinstance(value, Dispatcher):
            value = value.py_func
        elif hasattr(value, "fingerprint_parts"):  # our lazy kernels and callbacks
            self.text(type(value).__name__)
            for part in value.fingerprint_parts():
                self.value(part)
            return
        if not isinstance(value, python_types.FunctionType):
            raise NotCacheable(f"{value!r} has no stable value")
        row = TABLE.get(value.__name__)
        if row is not None and row.function is value:
            self.text("intrinsic", row.name)
        elif id(value) not in self.seen:
            self.seen[id(value)] = value
            self.function(value)

    def function(self, function: python_types.FunctionType) -> None:
        if function.__module__ not in sys.modules:  # Numba imports it when it loads the compiled form
            raise NotCacheable(f"{function.__qualname__} is of no importable module: {function.__module__}")
        self.text("function", function.__module__, function.__qualname__)
        names = _names(function.__code__)
        for code in _codes(function.__code__):
            self.text(code.co_code, code.co_names, code.co_varnames, code.co_freevars)
            for constant in code.co_consts:
                if not isinstance(constant, python_types.CodeType):
                    self.value(constant)
        self.value(function.__defaults__)
        for cell in function.__closure__ or ():
            self.value(cell.cell_contents, names)
        for name in sorted(names & function.__globals__.keys()):
            self.text("global", name)
            self.value(function.__globals__[name], names)


def _codes(code: python_types.CodeType) -> Iterator[python_types.CodeType]:
    """`code` and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, python_types.CodeType):
            yield from _codes(constant)


@functools.cache  # most kernels share their device functions
def _names(code: python_types.CodeType) -> frozenset[str]:
    """Names of globals and of attributes in `code`, which bytecode lists together: a superset will do."""
    return frozenset(name for part in _codes(code) for name in part.co_names)
