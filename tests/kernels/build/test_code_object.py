"""Code objects are made once on a machine, never outlive their sources, and name what they cannot do."""

from __future__ import annotations

import ast
import dataclasses
import errno
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernels.forked import SharedWords, meet, run_ranks
from tests.kernels.intrinsics.test_ptx import NO_ASSEMBLER
from umem import config
from umem.errors import DeviceMissing, DeviceTooOld, KernelRefused
from umem.files import cached
from umem.kernels import cpu_kernel, fetch_add_i64, futex_wake, load_i64, store_i64
from umem.kernels.build import code_cache, code_object, cuda
from umem.kernels.build.code_object import CAPABILITIES, FATBIN, CodeObject


def nvfatbin_is_missing() -> str:
    """Why no fatbin can be written here; empty where one can."""
    try:
        from cuda.bindings import nvfatbin

        nvfatbin.version()
    except (ImportError, RuntimeError) as error:
        return f"nvFatbin is not installed: {error}"
    return ""


WHY_NOT = (
    "numba-cuda is not installed: no PTX" if importlib.util.find_spec("numba_cuda") is None else NO_ASSEMBLER
) or nvfatbin_is_missing()
needs_compilers = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "all are there")

SIGNATURE = "void(int64, int64)"
NUM_PROCESSES = 3


def double(dst, src):
    """What most tests compile: it takes 0.1 s."""
    store_i64(dst, 0, 2 * load_i64(src, 0))
    fetch_add_i64(dst, 1, 1)


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that are compiled, from an empty cache on."""
    names: list[str] = []
    original = code_object.cuda_ptx_each

    def count(body, signature, capabilities):
        names.append(cuda.kernel_body(body).__name__)
        return original(body, signature, capabilities)

    monkeypatch.setattr(code_object, "cuda_ptx_each", count)
    monkeypatch.setattr(config, "cache_roots", lambda: [tmp_path / "cache", tmp_path / "other"])
    return names


@needs_compilers
def test_a_kernel_is_compiled_once_and_holds_every_generation(compiled: list[str]) -> None:
    first = code_object.code_object(double, SIGNATURE)
    again = code_object.code_object(cpu_kernel(SIGNATURE)(double), SIGNATURE)
    assert compiled == ["double"]
    assert again == first
    assert first.entry == "umem_double" and f".visible .entry {first.entry}(" in first.ptx
    assert ".target sm_80" in first.ptx and "atom.acq_rel.sys.global.add.u64" in first.ptx
    assert [*first.cubins] == [*CAPABILITIES]
    for cubin in first.cubins.values():
        assert cubin.startswith(b"\x7fELF") and first.entry.encode() in cubin and cubin in first.fatbin
    assert f".visible .entry {first.entry}(".encode() in first.fatbin


def unnumbered(ptx: str) -> str:
    """PTX without the names that Numba gives each compilation anew, which nobody calls."""
    return re.sub(r"_Z\w+", "_Z", ptx)


@needs_compilers
def test_another_signature_is_another_code_object(compiled: list[str]) -> None:
    first = code_object.code_object(double, SIGNATURE)
    assert code_object.code_object(double, "void(uint64, int64)") != first
    assert compiled == ["double"] * 2


HELPER = """
from umem.kernels import device_function, load_i64

FACTOR = 3

@device_function
def weigh(src):
    return load_i64(src, 0) * FACTOR
"""
KERNEL = """
from sample_cuda_helper import weigh
from umem.kernels import store_i64

def kernel(dst, src):
    store_i64(dst, 0, weigh(src))
"""


@needs_compilers
def test_an_edit_below_a_kernel_makes_another(
    compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sample_cuda_kernel.py").write_text(KERNEL)
    helper = tmp_path / "sample_cuda_helper.py"
    helper.write_text(HELPER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def fresh() -> CodeObject:
        for name in ("sample_cuda_kernel", "sample_cuda_helper"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return code_object.code_object(importlib.import_module("sample_cuda_kernel").kernel, SIGNATURE)

    before = fresh()
    assert re.search(r"mul\.lo\.s64.*, 3;|mad\.lo\.s64", before.ptx)
    assert fresh() == before and compiled == ["kernel"]
    helper.write_text(HELPER.replace("FACTOR = 3", "FACTOR = 5"))
    after = fresh()
    assert compiled == ["kernel"] * 2
    assert after.ptx != before.ptx and after.fatbin != before.fatbin
    helper.write_text(HELPER)
    assert fresh() == before and len(compiled) == 2


def test_other_compilers_make_another(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_object.cuda_key.__wrapped__()
    assert code_object.cuda_key.__wrapped__() == before
    monkeypatch.setattr(code_object, "_version", lambda package: f"{package} of another day")
    assert code_object.cuda_key.__wrapped__() != before
    monkeypatch.undo()
    monkeypatch.setattr(code_object, "CUDA_SOURCES", code_object.CUDA_SOURCES[1:])
    assert code_object.cuda_key.__wrapped__() != before


def test_the_key_covers_every_module_that_lowers_for_cuda() -> None:
    """All of the intrinsics and of build/ that register_cuda.py and code_object.py import, directly or not."""
    found: set[str] = set()
    queue = ["build/register_cuda", "build/code_object"]
    while queue:
        path = queue.pop()
        file = code_cache.KERNELS_FOLDER / f"{path}.py"
        if path in found or not file.exists():
            continue
        found.add(path)
        room = path.rpartition("/")[0]
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = [room] if node.level == 1 else []
                parts = [*base, *(node.module or "").split(".")]
                inside = "/".join(part for part in parts if part)
                queue += [inside, *(f"{inside}/{alias.name}".strip("/") for alias in node.names)]
    plain_python_only = {"intrinsics/machine"}
    assert "intrinsics/lower_cuda" in found
    assert found - plain_python_only <= set(code_object.CUDA_SOURCES)


@needs_compilers
def test_processes_that_start_together_compile_once(compiled: list[str]) -> None:
    ready, counts = SharedWords(NUM_PROCESSES), SharedWords(NUM_PROCESSES)

    def work(rank: int) -> None:
        meet(ready, rank, NUM_PROCESSES)
        assert code_object.code_object(double, SIGNATURE).fatbin
        counts.words[rank] = len(compiled)

    run_ranks(NUM_PROCESSES, work)
    assert sorted(counts.words) == [0, 0, 1]
    assert code_object.code_object(double, SIGNATURE).entry == "umem_double"
    assert compiled == []


@needs_compilers
def test_what_was_cut_off_or_removed_is_made_anew(compiled: list[str]) -> None:
    first = code_object.code_object(double, SIGNATURE)
    folder = code_cache.folder(double, SIGNATURE, code_object.cuda_key())
    assert folder is not None
    (folder / code_cache.READY_FILE).unlink()  # a process that died while it wrote
    (folder / FATBIN).write_bytes(first.fatbin[:100])
    assert len(code_object.code_object(double, SIGNATURE).fatbin) == len(first.fatbin)
    assert compiled == ["double"] * 2
    (folder / "sm_90.cubin").unlink()
    third = code_object.code_object(double, SIGNATURE)
    assert unnumbered(third.ptx) == unnumbered(first.ptx) and [*third.cubins] == [*CAPABILITIES]
    assert compiled == ["double"] * 3
    assert code_object.code_object(double, SIGNATURE) == third and len(compiled) == 3


@needs_compilers
def test_a_disk_that_is_full_costs_the_file_alone(
    compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.write_bytes

    def write_bytes(path: Path, data: bytes) -> int:
        if path.is_relative_to(tmp_path / "cache"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    try:
        code = code_object.code_object(double, SIGNATURE)
        assert code_object.code_object(double, SIGNATURE) == code
        assert compiled == ["double"] * 2  # once in vain
        assert [path.name for path in (tmp_path / "other").rglob("*.fatbin")] == [FATBIN]
    finally:
        cached.why_unusable.cache_clear()


@needs_compilers
def test_a_cache_that_cannot_be_read_or_written_costs_the_time_alone(
    compiled: list[str], monkeypatch
) -> None:
    first = code_object.code_object(double, SIGNATURE)
    folder = code_cache.folder(double, SIGNATURE, code_object.cuda_key())
    assert folder is not None
    (folder / FATBIN).unlink()
    (folder / FATBIN).mkdir()  # an error other than that it is missing
    try:
        for _ in range(2):
            assert len(code_object.code_object(double, SIGNATURE).fatbin) == len(first.fatbin)
        assert compiled == ["double"] * 3
    finally:
        cached.why_unusable.cache_clear()


@needs_compilers
def test_a_kernel_that_cannot_be_cached_is_compiled_each_time(compiled: list[str]) -> None:
    scope: dict = {"store_i64": store_i64}
    exec("def kernel(dst, value):\n    store_i64(dst, 0, value)\n", scope)
    for _ in range(2):
        assert code_object.code_object(scope["kernel"], SIGNATURE).entry == "umem_kernel"
    assert compiled == ["kernel"] * 2


OBJECT = CodeObject("pkg.kernel", "umem_kernel", "PTX", {cc: b"sm_%d%d" % cc for cc in CAPABILITIES}, b"all")


@pytest.mark.parametrize(
    ("capability", "image"),
    [
        *[((8, 0), b"sm_80"), ((8, 9), b"sm_80"), ((9, 0), b"sm_90"), ((10, 0), b"sm_100")],
        *[((10, 3), b"sm_100"), ((11, 0), b"PTX\0"), ((12, 0), b"PTX\0")],
    ],
)
def test_a_device_gets_the_newest_that_it_runs(capability: tuple[int, int], image: bytes) -> None:
    assert OBJECT.for_device(capability) == image


def test_a_cubin_is_for_no_older_device_of_its_major_version() -> None:
    minors = dataclasses.replace(OBJECT, cubins={(8, 0): b"sm_80", (8, 6): b"sm_86"})
    assert [minors.for_device((8, minor)) for minor in (0, 3, 6, 9)] == [b"sm_80"] * 2 + [b"sm_86"] * 2


@pytest.mark.parametrize("capability", [(7, 0), (7, 5)])
def test_a_device_that_is_too_old_is_named_with_the_way_out(capability: tuple[int, int]) -> None:
    with pytest.raises(
        DeviceTooOld, match=r"kernel pkg\.kernel needs .* 8\.0 or newer.*: use a newer GPU"
    ) as error:
        OBJECT.for_device(capability)
    assert (error.value.capability, error.value.oldest) == (capability, (8, 0))


def wakes(word, count):
    futex_wake(word, count)


def adds_text(word, count):
    store_i64(word, 0, "a" + count)


@needs_compilers
@pytest.mark.parametrize(
    ("body", "signature", "said"),
    [
        (wakes, SIGNATURE, "futex_wake runs on the CPU only"),
        (adds_text, SIGNATURE, "unicode"),
        (double, "int64(int64, int64)", "CUDA kernels return nothing, this one int64"),
        (double, "void(int64)", "it takes 2 arguments"),
    ],
    ids=["of the CPU", "of no type", "returns", "too few"],
)
def test_a_kernel_that_does_not_compile_is_named_with_the_reason(
    compiled: list[str], tmp_path: Path, body, signature: str, said: str
) -> None:
    with pytest.raises(KernelRefused, match="does not compile for CUDA") as error:
        code_object.code_object(body, signature)
    assert error.value.kernel == f"{__name__}.{body.__name__}"
    assert said in error.value.reason and "docs/reference.md" in str(error.value)
    assert not list(tmp_path.rglob(code_cache.READY_FILE))


@needs_compilers
def test_what_an_assembler_refuses_names_the_kernel(
    compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = code_object.cuda_ptx_each

    def spoiled(body, signature, capabilities):
        texts, entry = counting(body, signature, capabilities)
        return {cc: text.replace("ret;", "return;") for cc, text in texts.items()}, entry

    monkeypatch.setattr(code_object, "cuda_ptx_each", spoiled)
    with pytest.raises(KernelRefused, match=r"test_code_object\.double .*sm_80"):
        code_object.code_object(double, SIGNATURE)


@needs_compilers
@pytest.mark.parametrize("missing", ["nvvm", "nvjitlink", "nvfatbin"])
def test_a_missing_library_names_the_way_out(
    compiled: list[str], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    from cuda import bindings

    monkeypatch.setitem(sys.modules, f"cuda.bindings.{missing}", None)
    monkeypatch.delattr(bindings, missing, raising=False)
    with pytest.raises(DeviceMissing, match=r"(?i)" + missing + r".*pip install .*nvfatbin"):
        code_object.code_object(double, SIGNATURE)


@needs_compilers
def test_ptx_is_that_of_a_compilation_for_each_capability_alone() -> None:
    texts, entry = cuda.cuda_ptx_each(double, SIGNATURE, CAPABILITIES)
    for cc in CAPABILITIES:
        alone, name = cuda.cuda_ptx(double, SIGNATURE, cc)
        assert (unnumbered(texts[cc]), entry) == (unnumbered(alone), name)
        assert f".target sm_{cc[0]}{cc[1]}" in alone


@pytest.fixture(autouse=True)
def no_driver_is_loaded() -> Iterator[None]:
    """All of this runs where there is no CUDA driver, and loads none where there is one."""
    yield
    assert "libcuda.so" not in Path("/proc/self/maps").read_text()
