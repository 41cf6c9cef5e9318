"""Turns undecorated Python functions into compiled kernels, lazily, and keeps them in a cache.

Nothing is compiled at import. A kernel compiles, or loads from the cache, at its first call; the few that every rank
needs are loaded before the ranks are forked (umem/space/ahead.py). Compiled code runs without the GIL.

    @device_function
    def next_line(address): ...                   # callable from kernels of every target

    @cpu_kernel("int64(int64, int64)")
    def count_lines(base, num_bytes): ...         # count_lines(base, n); hot paths: count_lines.compiled

    @c_callback("int64(int64, int64, int64)")
    def on_read(request, reply, context): ...     # on_read.address, for call_handler and C libraries
"""

from __future__ import annotations

import functools
import operator
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numba
from numba.core import types
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import register_jitable, typeof_impl

from umem.errors import ConfigError
from umem.files import cached

from ..intrinsics import faults, register_cpu
from . import code_cache, cpu_target
from .link import KernelCompiler, LinkCompiler

assert register_cpu  # imported because it teaches Numba the intrinsics

Function = TypeVar("Function", bound=Callable[..., Any])

CORE = "core"  # group of the kernels that need no library beyond libc
# Division by zero gives NumPy's result instead of an exception, without which no loop would vectorise.
OPTIONS: dict[str, Any] = {"error_model": "numpy"}
TO_LINK: dict[str, Any] = {**OPTIONS, "pipeline_class": LinkCompiler}
TO_RUN: dict[str, Any] = {**OPTIONS, "pipeline_class": KernelCompiler}
# C entry points beside what Numba itself calls: only callbacks need them, and they would double the code.
NO_C_ENTRY: dict[str, Any] = {"no_cfunc_wrapper": True}

DEVICE_FUNCTIONS: list[Callable[..., Any]] = []
INLINED: set[Any] = set()  # those of them that are always inlined: their variants are too


def device_function(function: Function) -> Function:
    """Mark `function` as callable from kernels of every target, and return it unchanged."""
    DEVICE_FUNCTIONS.append(function)
    # Said, because what is not said is inherited: below an inlined function all would be inlined, without end.
    register_jitable(forceinline=False, **TO_LINK, **NO_C_ENTRY)(function)
    return function


def inlined_function(function: Function) -> Function:
    """`device_function` whose CPU calls are always inlined: for small fast paths, where a call costs a third.

    Functions that it calls are not inlined: keep the slow paths in device functions.
    """
    DEVICE_FUNCTIONS.append(function)
    register_jitable(forceinline=True, **TO_LINK, **NO_C_ENTRY)(function)
    INLINED.add(function)
    return function


def check_jit() -> None:
    """Raise ConfigError where Numba is told not to compile: no kernel works then."""
    if numba.config.DISABLE_JIT:
        raise ConfigError(
            "NUMBA_DISABLE_JIT=1 leaves kernels to Python's interpreter, which has no loads and stores by address:"
            " unset it; a kernel's undecorated function is its .body"
        )


_tell: Callable[[bool], None] | None = None
_num_compiling = 0
_compiling_lock = threading.Lock()


def observe(tell: Callable[[bool], None]) -> None:
    """Have `tell` called with True when this process begins to compile, and with False when it has ended.

    There is one observer a process: a later one replaces it.
    """
    global _tell
    _tell = tell


@contextmanager
def compiling() -> Iterator[None]:
    """Tell the observer that this process compiles inside the block, or waits for another one that does."""
    _count_compiling(1)
    try:
        yield
    finally:
        _count_compiling(-1)


def _count_compiling(change: int) -> None:
    global _num_compiling
    with _compiling_lock:
        before, _num_compiling = _num_compiling, _num_compiling + change
    if _tell is not None and 0 in (before, before + change):
        _tell(change > 0)


class Lazy:
    """A function that is compiled once, when it is first needed, by one thread of one process."""

    def __init__(self, body: Any, signature: Any, group: str):
        self.body = body
        self.signature = signature
        self.group = group
        self.__name__ = body.__name__
        self.__qualname__ = body.__qualname__
        self.__module__ = body.__module__
        self.__doc__ = body.__doc__
        self.__wrapped__ = body
        self._ready: Any = None

    def load(self) -> Any:
        """Compile, or load from the cache, unless that is done; the compiled object."""
        if self._ready is None:
            # Numba's lock first: a compile that comes from within another compile holds it already.
            with global_compiler_lock:
                if self._ready is None:
                    self._ready = self._load()
        return self._ready

    @property
    def is_loaded(self) -> bool:
        """Whether this process has the compiled form."""
        return self._ready is not None

    @functools.cached_property
    def folder(self) -> Path | None:
        """Where its compiled form is kept; None where it cannot be cached."""
        return code_cache.folder(self.body, self.signature)

    def _load(self) -> Any:
        if self.folder is not None and code_cache.is_ready(self.folder):
            return self._load_or_compile()
        with compiling():
            return self._load_or_compile()

    def _load_or_compile(self) -> Any:
        check_jit()
        cpu_target.set_up()
        if faults.is_active():
            faults.install()
        while (path := self.folder) is not None:
            try:
                with code_cache.first_compile(path), code_cache.numba_files(path):
                    return self._compile(use_cache=True)
            except OSError as error:
                cached.give_up(path, error)
                del self.folder
        return self._compile(use_cache=False)

    def _compile(self, use_cache: bool) -> Any:
        raise NotImplementedError

    def fingerprint_parts(self) -> tuple[Any, ...]:
        """What a kernel that refers to this one depends on."""
        return self.body, str(self.signature)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.__module__}.{self.__qualname__} {self.signature}>"


class CpuKernel(Lazy):
    """A compiled kernel: call it, or take `.compiled`, the bare Numba dispatcher, where 0.1 us counts.

    `.body` is the undecorated function. Kernels may call each other.
    """

    def __init__(self, body: Any, signature: Any, group: str):
        super().__init__(body, signature, group)
        self._target: Callable[..., Any] = self._first_call

    @property
    def compiled(self) -> Any:
        """The Numba dispatcher, compiled for the signature."""
        return self.load()

    if TYPE_CHECKING:

        def __call__(self, *args: Any) -> Any:
            """Call the compiled kernel."""

    else:
        # A property in C, not a method, so that no Python frame stands between a call and the dispatcher.
        __call__ = property(operator.attrgetter("_target"))

    def _first_call(self, *args: Any) -> Any:
        self._target = self.load()
        return self._target(*args)

    def assembly(self) -> str:
        """Machine code as text. Compiles anew each time: Numba cannot show code that came from the cache."""
        return "\n".join(self._compile_to_show().inspect_asm().values())

    def llvm_ir(self) -> str:
        """Optimised LLVM IR as text; compiles anew each time."""
        return "\n".join(self._compile_to_show().inspect_llvm().values())

    def _compile_to_show(self) -> Any:
        if faults.is_active():
            faults.install()
        with global_compiler_lock:
            return self._compile(use_cache=False)

    def _compile(self, use_cache: bool) -> Any:
        dispatcher = numba.njit(nogil=True, cache=use_cache, **TO_RUN, **NO_C_ENTRY)(self.body)
        if self.signature is not None:
            dispatcher.compile(self.signature)
            dispatcher.disable_compile()
        return dispatcher


class CCallback(Lazy):
    """A compiled function with C calling convention; it must not raise."""

    @property
    def address(self) -> int:
        """Address of the machine code, the same in children forked after it was loaded."""
        return int(self.load().address)

    @property
    def ctypes(self) -> Any:
        """The function as ctypes sees it: for tests and callers from Python."""
        return self.load().ctypes

    def _compile(self, use_cache: bool) -> Any:
        return numba.cfunc(self.signature, cache=use_cache, **OPTIONS)(self.body)


REGISTRY: list[Lazy] = []
_registry_lock = threading.Lock()


def cpu_kernel(signature: Any = None, *, group: str = CORE) -> Callable[[Callable[..., Any]], CpuKernel]:
    """Decorator: compile the body for `signature` (a string in Numba's type names, or a Numba signature).

    Without a signature the kernel is specialised for the types of each call, as by numba.njit. `group` is
    what `load_all` selects by: "core", or the name of the library that the kernel's symbols come from.
    Works on functions of modules, scripts, notebooks and on closures; what has no file is not cached.
    """

    def decorate(body: Callable[..., Any]) -> CpuKernel:
        return _enter(CpuKernel(body, signature, group))

    return decorate


def c_callback(signature: Any, *, group: str = CORE) -> Callable[[Callable[..., Any]], CCallback]:
    """Decorator: compile the body as a C function, for `call_handler` and for callbacks of C libraries."""

    def decorate(body: Callable[..., Any]) -> CCallback:
        return _enter(CCallback(body, signature, group))

    return decorate


LazyKind = TypeVar("LazyKind", bound=Lazy)


def _enter(lazy: LazyKind) -> LazyKind:
    with _registry_lock:
        REGISTRY.append(lazy)
    return lazy


def registered(prefix: str = "umem", groups: Iterable[str] = (CORE,)) -> list[Lazy]:
    """Kernels and callbacks of `groups` with a signature, from imported modules under `prefix`."""
    wanted = set(groups)
    with _registry_lock:
        chosen = [lazy for lazy in REGISTRY if lazy.group in wanted and lazy.signature is not None]
    return [lazy for lazy in chosen if f"{lazy.__module__}.".startswith(prefix + ".")]


def load_all(prefix: str = "umem", groups: Iterable[str] = (CORE,)) -> int:
    """Load every kernel and callback of `groups` whose module lies under `prefix`; how many those are.

    Only modules that are imported count. The process keeps its number of threads, so it may fork after.
    """
    chosen = registered(prefix, groups)
    for lazy in chosen:
        lazy.load()
    return len(chosen)


@typeof_impl.register(CpuKernel)
def _type_of_kernel(kernel: CpuKernel, context: Any) -> types.Type:
    return types.Dispatcher(kernel.compiled)
