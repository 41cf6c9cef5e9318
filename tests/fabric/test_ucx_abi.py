"""Every structure and constant that umem passes to libucp is what the shipped headers say."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from umem.errors import FabricMissing
from umem.fabric.ucx import abi, library


def header_folder() -> Path:
    try:
        folder = library.choose().folder.parent / "include"
    except FabricMissing as error:
        pytest.skip(str(error))
    if not (folder / "ucp" / "api" / "ucp.h").exists():
        pytest.skip(f"{folder} has no ucp/api/ucp.h")
    return folder


def expressions() -> dict[str, int]:
    """C expressions and the value that abi.py gives them."""
    values: dict[str, int] = {**abi.CONSTANTS, **abi.STATUSES}
    values["sizeof(ucs_status_t)"] = 1
    values["ucp_dt_make_contig(8)"] = abi.contiguous(8)
    for structure in abi.STRUCTURES:
        name = structure.C_NAME
        paths = getattr(structure, "C_PATHS", {})
        values[f"sizeof({name})"] = ctypes.sizeof(structure)
        for field in structure._fields_:
            path = paths.get(field[0], field[0])
            values[f"offsetof({name}, {path})"] = getattr(structure, field[0]).offset
            values[f"sizeof((({name}*)0)->{path})"] = ctypes.sizeof(field[1])
    return values


def test_structures_and_constants_match_the_headers(tmp_path):
    folder = header_folder()
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: neither cc nor gcc is installed")
    wanted = expressions()
    lines = [f'  printf("%lld\\n", (long long)({expression}));' for expression in wanted]
    source = tmp_path / "abi.c"
    source.write_text(
        "#include <ucp/api/ucp.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {\n"
        + "\n".join(lines)
        + "\n  return 0;\n}\n"
    )
    program = tmp_path / "abi"
    subprocess.run([compiler, "-w", f"-I{folder}", str(source), "-o", str(program)], check=True, timeout=60)
    printed = subprocess.run([str(program)], check=True, capture_output=True, text=True, timeout=10).stdout
    found = dict(zip(wanted, map(int, printed.split()), strict=True))
    assert {name: found[name] for name in wanted if found[name] != wanted[name]} == {}


def test_shorthands_repeat_the_tables():
    shorthands = {name: value for name, value in vars(abi).items() if name.startswith("UCS_")}
    assert len(shorthands) >= 8
    assert shorthands.items() <= abi.STATUSES.items()
