"""docs/sass.md says what the compilers make of every kernel for CUDA; where they are those that wrote it."""

from __future__ import annotations

import importlib
from collections import Counter

import pytest
import write_sass
from cuda_kernels import cuda_kernels, signature_of

from tests.kernels.build.test_code_object import WHY_NOT
from umem.errors import DeviceMissing
from umem.kernels.build.cuda import cuda_cubin, cuda_ptx

ROWS = {
    line.split("`")[1]: line for line in write_sass.PAGE.read_text().splitlines() if line.startswith("| `")
}
LIGHT = ["copy_2d", "post_add"]  # half a second each


def why_not() -> str:
    """Why the page cannot be compared here; empty where it can."""
    if WHY_NOT:
        return WHY_NOT
    try:
        write_sass.nvdisasm()
        here = write_sass.made_by()
    except DeviceMissing as error:
        return str(error)
    return "" if here in write_sass.PAGE.read_text() else f"docs/sass.md is of other compilers; here: {here}"


REASON = why_not()
comparable = pytest.mark.skipif(bool(REASON), reason=REASON or "the compilers are those of the page")


def test_the_page_has_every_kernel_and_none_spills():
    assert list(ROWS) == list(cuda_kernels())
    spills = write_sass.HEADS.index("spills")
    for name, line in ROWS.items():
        assert line.strip("| ").split("|")[spills].strip() == "0", name


@comparable
@pytest.mark.parametrize("name", LIGHT)
def test_rows_are_current(name):
    assert write_sass.row_of(name) == ROWS[name], "run `make sass`"


@pytest.mark.soak  # compiles all of them: minutes where no cache has them
@pytest.mark.timeout(900)
@comparable
def test_the_page_is_current():
    assert write_sass.page() == write_sass.PAGE.read_text(), "run `make sass`"


@comparable
def test_spills_are_seen(tmp_path, monkeypatch):
    """A kernel with more values alive at once than a thread has registers."""
    loads = "\n".join(f"    v{n} = load_i64(src, {n})" for n in range(200))
    stores = "\n".join(f"    store_i64(dst, {n}, v{n})" for n in reversed(range(200)))
    (tmp_path / "sample_hungry.py").write_text(
        f"from umem.kernels import load_i64, store_i64\n\ndef hungry(dst, src):\n{loads}\n{stores}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    hungry = importlib.import_module("sample_hungry").hungry
    sass = write_sass.disassemble(cuda_cubin(*cuda_ptx_of(hungry)))
    assert sass.registers > 250 and sass.stack_bytes >= 8
    spills = sass.num(r"(LDL|STL)\b.*")
    assert spills >= 2 and f"| {sass.stack_bytes} B, {spills} |" in write_sass.row("hungry", sass)


def cuda_ptx_of(body):
    return cuda_ptx(body, signature_of(body), write_sass.CAPABILITY)[0], write_sass.CAPABILITY


def test_instructions_are_told_apart():
    names = ["LDG.E.128", "LDG.E.64.STRONG.SYS", "LDG.E", "LDS", "STG.E.U8", "ST.E.64", "CALL.ABS.NOINC"]
    names += ["MEMBAR.ALL.SYS", "MEMBAR.SC.SYS", "MEMBAR.ALL.CTA", "CCTL.IVALL", "CCTL.E.PF2"]
    names += ["ATOMG.E.CAS.64.STRONG.SYS", "RED.E.ADD"]
    line = write_sass.row("kernel", write_sass.Sass(Counter(names), 40, 0))
    loads, stores = "1 of 16, 1 of 8, 1 of 4; 1 ordered", "1 of 8, 1 of 1"
    assert line == f"| `kernel` | 14 | 40 | 0 | 1 sc sys, 1 sys | 1 | {loads} | {stores} | 2 | 1 |"
