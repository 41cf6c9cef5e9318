"""UCX's own programs beside its library: ucx_info and ucx_perftest, and what `umem info` says of UCX."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from ... import config
from ...errors import FabricMissing
from .library import INSTALL_UCX, Choice, choose, dotted, live_rdma_ports, load

INFO_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Report:
    """What `umem info` prints about UCX; `fix` is empty where nothing is missing."""

    kind: str  # wheel, system, path, or none
    path: str
    version: str
    why: str
    transports: tuple[str, ...]
    rdma_ports: tuple[str, ...]
    fix: str

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def describe() -> Report:
    """Which libucp this process uses, its version and transports, and why; or the line that fixes a lack."""
    ports = tuple(live_rdma_ports())
    try:
        library = load()
    except FabricMissing as error:
        return Report("none", "", "", str(error), (), ports, INSTALL_UCX)
    choice = library.choice
    path = str(choice.folder / "libucp.so.0")
    return Report(choice.kind, path, dotted(library.version), choice.why, transports(choice), ports, "")


def transports(choice: Choice) -> tuple[str, ...]:
    """Transports that this UCX sees on this machine, sorted; empty where it ships no ucx_info."""
    command = tool_command("ucx_info", choice)
    if command is None:
        return ()
    argv, environment = command
    printed = subprocess.run(
        [*argv, "-d"],
        env={**config.snapshot(), **environment},
        capture_output=True,
        text=True,
        timeout=INFO_TIMEOUT_S,
        check=False,
    )
    return tuple(sorted(set(re.findall(r"Transport: (\S+)", printed.stdout))))


def perftest_command(choice: Choice | None = None) -> tuple[list[str], dict[str, str]]:
    """Start of a command line that runs the ucx_perftest of the libucp in use, and its environment.

    Raises FabricMissing where this UCX has none.
    """
    choice = choice or choose()
    command = tool_command("ucx_perftest", choice)
    if command is None:
        raise FabricMissing(f"{choice.folder} has no ucx_perftest beside it. Fix: {INSTALL_UCX}")
    return command


def tool_command(name: str, choice: Choice) -> tuple[list[str], dict[str, str]] | None:
    """Start of a command line for one of UCX's programs, and what to add to its environment; None if absent.

    pip unpacks the wheel's programs without the execute bit: the dynamic loader that such a program
    names runs it all the same.
    """
    environment = {"LD_LIBRARY_PATH": str(choice.folder), "UCX_WARN_UNUSED_ENV_VARS": "n"}
    for folder in (choice.folder.parent / "bin", choice.folder.parent.parent / "bin", Path("/usr/bin")):
        program = folder / name
        if program.exists():
            if os.access(program, os.X_OK):
                return [str(program)], environment
            return [elf_interpreter(program), str(program)], environment
    return None


def elf_interpreter(program: Path) -> str:
    """The dynamic loader that a 64-bit little-endian ELF program names (its PT_INTERP entry)."""
    image = program.read_bytes()
    assert image[:5] == b"\x7fELF\x02", f"{program} is not a 64-bit ELF file"

    def number(offset: int, num_bytes: int) -> int:
        return int.from_bytes(image[offset : offset + num_bytes], "little")

    table, entry_bytes, num_entries = number(32, 8), number(54, 2), number(56, 2)
    for entry in range(table, table + num_entries * entry_bytes, entry_bytes):
        if number(entry, 4) == 3:  # PT_INTERP
            offset, num_bytes = number(entry + 8, 8), number(entry + 32, 8)
            return image[offset : offset + num_bytes].rstrip(b"\0").decode()
    raise FabricMissing(f"{program} is neither executable nor names a loader")
