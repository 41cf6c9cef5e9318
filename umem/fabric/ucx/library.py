"""Which libucp this process uses, and loading it.

UMEM_UCX chooses: `wheel` (the libucx package that pip installs), `system`, a path to libucp.so or its
folder, or `auto`: the wheel, unless a system UCX can reach a live RDMA port. The wheel on PyPI is
built without verbs, so on a machine with such a port only the system's library uses it.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ... import config
from ...errors import FabricMissing
from . import abi

INSTALL_UCX = "pip install 'umem[ucx]'   (in a checkout: scripts/setup ucx)"
LOAD_ORDER = ("libucs.so.0", "libuct.so.0", "libucp.so.0")
INFINIBAND = Path("/sys/class/infiniband")

# What libucs reads once, when it is loaded; anything else is read when a context is made.
# UCX's own words about a dead peer would stand between the typed errors that umem raises.
LOAD_ENVIRONMENT = {"UCX_WARN_UNUSED_ENV_VARS": "n", "UCX_LOG_LEVEL": "fatal"}

# UCX rewrites the machine code of mmap and its kin to watch for unmapped memory, which serves its
# registration cache and its detection of GPU memory. Without RDMA and GPUs neither has work, and the
# rewriting takes 0.4 s of every process's start (its grace periods of 50 ms).
NO_MEMORY_HOOKS = {"UCX_MEM_EVENTS": "n"}
GPU_DRIVER = Path("/dev/nvidiactl")


@dataclass(frozen=True)
class Choice:
    """A libucp found on this machine."""

    kind: str  # wheel, system or path
    folder: Path  # of libucp.so.0
    why: str


@dataclass(frozen=True)
class Library:
    """The libucp of this process, loaded."""

    choice: Choice
    version: tuple[int, int, int]
    ucp: ctypes.CDLL
    ucs: ctypes.CDLL

    def status_text(self, status: int) -> str:
        """UCX's words for a ucs_status_t."""
        self.ucs.ucs_status_string.restype = ctypes.c_char_p
        self.ucs.ucs_status_string.argtypes = [ctypes.c_int8]
        return str(self.ucs.ucs_status_string(status).decode())


def choose(wanted: str | None = None) -> Choice:
    """The libucp to use: by `wanted` (wheel, system, auto or a path), else by UMEM_UCX.

    Raises FabricMissing, with the line that fixes it, where there is none.
    """
    wanted = wanted or config.text("UMEM_UCX", "auto") or "auto"
    if wanted == "wheel":
        return _require(_wheel(), "UMEM_UCX=wheel, and the package libucx is not installed")
    if wanted == "system":
        return _require(_system(), "UMEM_UCX=system, and no libucp.so.0 is in the system's library folders")
    if wanted != "auto":
        return _require(_at(Path(wanted)), f"UMEM_UCX={wanted} does not hold {', '.join(LOAD_ORDER)}")
    wheel, system, ports = _wheel(), _system(), live_rdma_ports()
    if system is not None and ports and _has_verbs(system.folder):
        return Choice("system", system.folder, f"auto: it can reach the RDMA port {ports[0]}")
    if wheel is not None:
        return Choice("wheel", wheel.folder, "auto: no RDMA port that a system UCX could reach")
    if system is not None:
        return Choice("system", system.folder, "auto: the package libucx is not installed")
    raise _missing("no libucp was found")


def is_available() -> bool:
    """Whether a libucp is there to be loaded."""
    try:
        choose()
    except FabricMissing:
        return False
    return True


@functools.cache
def load() -> Library:
    """Load libucs, libuct and libucp by full path, for ctypes and for compiled code.

    Once a process. Raises FabricMissing where there is none, or one older than abi.API_VERSION.
    """
    from llvmlite import binding

    choice = choose()
    needs_hooks = bool(live_rdma_ports()) or GPU_DRIVER.exists()
    with config.environment(unset(LOAD_ENVIRONMENT | ({} if needs_hooks else NO_MEMORY_HOOKS))):
        ucs, _, ucp = [ctypes.CDLL(str(choice.folder / name)) for name in LOAD_ORDER]
        number = version(ucp)
        if number < abi.API_VERSION:
            raise _missing(
                f"{choice.folder}/libucp.so.0 is version {dotted(number)},"
                f" and umem needs {dotted(abi.API_VERSION)} or newer"
            )
        binding.load_library_permanently(str(choice.folder / LOAD_ORDER[-1]))
    return Library(choice, number, ucp, ucs)


def version(ucp: ctypes.CDLL) -> tuple[int, int, int]:
    """Version that a libucp reports."""
    numbers = [ctypes.c_uint() for _ in range(3)]
    ucp.ucp_get_version(*(ctypes.byref(number) for number in numbers))
    return (numbers[0].value, numbers[1].value, numbers[2].value)


def unset(variables: Mapping[str, str]) -> dict[str, str]:
    """Those of `variables` that the environment does not set: the user's settings win."""
    return {name: value for name, value in variables.items() if config.text(name) is None}


def dotted(number: tuple[int, ...]) -> str:
    """A version as people write it."""
    return ".".join(str(part) for part in number)


def install_stubs(names: tuple[str, ...], address: int) -> None:
    """Without a libucp: bind its symbols to one function, so that compiled code which names them loads.

    That function must return an error; code which was told that there is no worker never calls it.
    """
    from llvmlite import binding

    assert not is_available(), "stubs would hide the real library"
    for name in names:
        binding.add_symbol(name, address)


def live_rdma_ports(root: Path = INFINIBAND) -> list[str]:
    """RDMA ports of this machine that are up, as device:port."""
    up = [state for state in sorted(root.glob("*/ports/*/state")) if "ACTIVE" in state.read_text()]
    return [f"{state.parts[-4]}:{state.parts[-2]}" for state in up]


def _wheel() -> Choice | None:
    spec = importlib.util.find_spec("libucx")
    if spec is None or not spec.submodule_search_locations:
        return None
    found = _at(Path(spec.submodule_search_locations[0]) / "lib")
    return None if found is None else Choice("wheel", found.folder, "UMEM_UCX=wheel")


def _system() -> Choice | None:
    multiarch = sysconfig.get_config_var("MULTIARCH") or "none"
    folders = [Path(folder) for folder in (config.text("LD_LIBRARY_PATH") or "").split(":") if folder]
    folders += [Path("/usr/local/lib"), Path("/opt/ucx/lib"), Path("/usr/lib") / multiarch]
    folders += [Path("/usr/lib64"), Path("/usr/lib")]
    for folder in folders:
        found = _at(folder)
        if found is not None:
            return Choice("system", found.folder, "UMEM_UCX=system")
    return None


def _at(path: Path) -> Choice | None:
    for folder in (path.parent if path.is_file() else path, path / "lib"):
        if all((folder / name).exists() for name in LOAD_ORDER):
            return Choice("path", folder.absolute(), f"UMEM_UCX={path}")
    return None


def _has_verbs(folder: Path) -> bool:
    return any((folder / "ucx").glob("libuct_ib*.so*"))


def _require(choice: Choice | None, reason: str) -> Choice:
    if choice is None:
        raise _missing(reason)
    return choice


def _missing(reason: str) -> FabricMissing:
    return FabricMissing(f"UCX is missing: {reason}. Fix: {INSTALL_UCX}")
