"""Every intrinsic becomes the PTX that its ordering asks for, on every generation of devices, and assembles.

This says what is executed, not that a device executes it: no test here needs one.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from umem.errors import DeviceError, DeviceMissing, KernelRefused
from umem.kernels import (
    cpu_kernel,
    device_function,
    fetch_add_i64,
    futex_wake,
    lane_index,
    load_acquire_i64,
    load_i64,
    num_lanes,
    pause,
    store_i64,
    store_release_i64,
    vec_fma_f32,
    vec_lanes_f32,
    vec_load_f32,
    vec_store_f32,
)
from umem.kernels.build.cuda import cuda_cubin, cuda_ptx
from umem.kernels.intrinsics.table import TABLE, Intrinsic

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed: no PTX"
)


def nvjitlink_is_missing() -> str:
    """Why nothing can assemble PTX here; empty where nvJitLink can."""
    try:
        from cuda.bindings import nvjitlink

        nvjitlink.version()
    except (ImportError, RuntimeError) as error:
        return f"nvJitLink is not installed, PTX is not assembled: {error}"
    return ""


NO_ASSEMBLER = nvjitlink_is_missing()
CAPABILITIES = [(8, 0), (9, 0), (10, 0)]
ROWS = [row for row in TABLE.values() if "cuda" in row.targets]
NUMBA_NAMES = {"i": "int", "u": "uint", "f": "float"}
VECTOR = r"\.global\.(v4\.[bsuf]32|v2\.[bsuf]64)"

EXPECTED: dict[str, str] = {
    "fence_acquire": r"fence\.acq_rel\.sys;",
    "fence_release": r"fence\.acq_rel\.sys;",
    "fence_seq_cst": r"fence\.sc\.sys;",
    **{
        f"fence_{ordering}_{scope}": rf"fence\.{said}\.{scope};"
        for scope in ("cta", "gpu")
        for ordering, said in (("acquire", "acq_rel"), ("release", "acq_rel"), ("seq_cst", "sc"))
    },
    "fence_after_atomic": r"fence\.sc\.sys;",
    "pause": r"nanosleep\.u32",
    "yield_cpu": r"nanosleep\.u32",
    "now_ns": r"mov\.u64 .*%globaltimer;",
    "cycles": r"mov\.u64 .*%clock64;",
    "is_gpu": r", 1;",
    "lane_index": r"%ctaid\.x;[^$]*%ntid\.x;[^$]*%tid\.x;",
    "thread_stripe": r"%ctaid\.x;[^$]*%ntid\.x;[^$]*%tid\.x;",
    "block_lane": r"%tid\.x;",
    "num_block_lanes": r"%ntid\.x;",
    "block_meet": r"barrier\.cta\.red\.or\.pred \w+, 0, \w+;",
    "warp_meet": r"vote\.sync\.any\.pred[^$]*bar\.warp\.sync",
    "num_lanes": r"%nctaid\.x;[^$]*%ntid\.x;",
    "prefetch": r"prefetch\.global\.L2 \[",
    "prefetch_for_store": r"prefetch\.global\.L2 \[",
    "vec_load_relaxed_i64": r"(ld\.relaxed\.sys\.global\.[bus]64[^$]*){2}",
    "vec_store_relaxed_i64": r"(st\.relaxed\.sys\.global\.[bus]64[^$]*){2}",
    "vec_indices_i64": r"st\.global\.v2\.[bu]64",
    "vec_equal_i64": r"(setp[^$]*){2}",
    "copy_bytes": r"ld\.global[^$]*st\.global",
    "call_handler": r"-3\b",  # NOT_MAPPED
    "count_leading_zeros_u64": r"clz\.b64",
    "count_trailing_zeros_u64": r"popc\.b64|bfind|brev\.b64",
    "count_ones_u64": r"popc\.b64",
    "multiply_high_u64": r"mul\.hi\.u64",
    "load_f16_f32": r"ld\.global\.[bu]16[^$]*cvt\.f32\.f16",
    "vec_load_f16_f32": r"ld\.global\.v4\.[bu]16[^$]*(cvt\.f32\.f16[^$]*){4}",
    "load_bf16_f32": r"ld\.global\.[bu]16[^$]*shl\.b32",
    "vec_load_bf16_f32": r"ld\.global\.v4\.[bu]16[^$]*(shl\.b32[^$]*){4}",
    "load_i8_f32": r"ld\.global\.[bsu]8[^$]*cvt\.rn\.f32\.s",
    "vec_load_i8_f32": r"ld\.global\.(v4\.[bsu]8|[bu]32)[^$]*(cvt\.rn\.f32\.s[^$]*){4}",
    "load_u8_f32": r"ld\.global\.[bu]8[^$]*cvt\.rn\.f32\.u",
    "vec_load_u8_f32": r"ld\.global\.(v4\.[bu]8|[bu]32)[^$]*(cvt\.rn\.f32\.u[^$]*){4}",
    "store_f32_f16": r"cvt\.rn\.f16\.f32[^$]*st\.global\.[bu]16",
    "vec_store_f32_f16": r"(cvt\.rn\.f16\.f32[^$]*){4}st\.global\.v4\.[bu]16",
    "store_f32_bf16": r"setp\.nan\.f32[^$]*st\.global\.[bu]16",
    "vec_store_f32_bf16": r"(setp\.nan\.f32[^$]*){4}st\.global\.(v4\.[bu]16|v2\.b32)",
    "stream_fence": r"ret;",  # the release that follows orders streamed stores
}
VECTOR_ARITHMETIC = {
    "vec_add": {"f": r"add\.f", "i": r"add\.s"},
    "vec_sub": {"f": r"sub\.f", "i": r"sub\.s"},
    "vec_mul": {"f": r"mul\.f", "i": r"mul\.lo\.s"},
    "vec_div": {"f": r"div\.rn\.f"},
    "vec_min": {"f": r"setp\.lt\.f", "i": r"min\.s"},
    "vec_max": {"f": r"setp\.gt\.f", "i": r"max\.s"},
    "vec_fma": {"f": r"fma\.rn\.f"},
    "vec_sum": {"f": r"add\.f", "i": r"add\.s"},
    "vec_and": {"i": r"and\.b"},
    "vec_or": {"i": r"or\.b"},
    "vec_xor": {"i": r"xor\.b"},
    "vec_shift_left": {"i": r"shl\.b"},
    "vec_shift_right": {"i": r"shr\.u"},
}


def expected(row: Intrinsic) -> str:
    """The instruction, as a pattern: written out here, not taken from the lowering."""
    if row.name in EXPECTED:
        return EXPECTED[row.name]
    assert row.element is not None
    kind, bits = row.element.kind, 8 * row.element.num_bytes
    scope = row.name.rpartition("_")[2] if row.name.endswith(("_cta", "_gpu")) else "sys"
    typed = f"{'s' if kind == 'i' else kind}{bits}"
    match row.operation:
        case "load" if row.ordering == "plain":
            return rf"ld\.global\.[bsuf]{bits}\b"
        case "store" if row.ordering == "plain":
            return rf"st\.global\.[bsuf]{bits}\b"
        case "load":
            return rf"ld\.{row.ordering}\.{scope}\.global\.{typed} "
        case "store":
            return rf"st\.{row.ordering}\.{scope}\.global\.{typed} "
        case "fetch_add":
            return rf"atom\.{row.ordering}\.{scope}\.global\.add\.{'f' if kind == 'f' else 'u'}{bits} "
        case "fetch_or" | "fetch_and":
            return rf"atom\.acq_rel\.{scope}\.global\.{row.operation.removeprefix('fetch_')}\.b{bits} "
        case "exchange":
            return rf"atom\.acq_rel\.{scope}\.global\.exch\.b{bits} "
        case "compare_swap":
            return rf"atom\.acq_rel\.{scope}\.global\.cas\.b{bits} "
        case "vec_load":
            return f"ld{VECTOR}"
        case "vec_store" if row.ordering == "stream":
            return rf"st\.global\.cs\.v{128 // bits}\.[bf]{bits} "
        case "vec_store" | "vec_zero" | "vec_splat":
            return f"st{VECTOR}"
        case "vec_lanes":
            return rf"(mov\.[bu]64\s+%rd\d+|st\.global\.b64\s+\[%rd\d+\]), {128 // bits};"
    lanes = 128 // bits - (row.operation == "vec_sum")
    one = VECTOR_ARITHMETIC[row.operation][kind]
    packed = rf"({one}32x2\s[^$]*){{2}}|" if typed == "f32" else ""  # two lanes an instruction from sm_100 on
    return rf"{packed}({one}{bits}\s[^$]*){{{lanes}}}"


def kernel_of(row: Intrinsic) -> tuple[Callable[..., None], str]:
    """A kernel that does `row` once on values from memory and keeps the result, and its signature."""
    scope: dict[str, Any] = {"intrinsic": row.function}
    scalars, operands = [], []
    for n, operand in enumerate(row.operands):
        if operand.startswith("vec_"):
            scope[f"load_{n}"] = TABLE[f"vec_load_{operand[4:]}"].function
            operands.append(f"load_{n}(src, {16 * n})")
        else:
            scalars.append(f"{NUMBA_NAMES[operand[0]]}{operand[1:]}")
            operands.append(f"value_{n}")
    call = f"intrinsic({', '.join(operands)})"
    if row.result != "void":
        prefix = "vec_store_" if row.result.startswith("vec_") else "store_"
        scope["keep"] = TABLE[prefix + row.result.removeprefix("vec_")].function
        call = f"keep(dst, 0, {call})"
    parameters = ["dst", "src", *[name for name in operands if name.startswith("value_")]]
    exec(f"def kernel({', '.join(parameters)}):\n    {call}\n", scope)
    return scope["kernel"], f"void({', '.join(['int64', 'int64', *scalars])})"


PTX: dict[tuple[str, tuple[int, int]], tuple[str, str]] = {}


def ptx_of(row: Intrinsic, cc: tuple[int, int]) -> tuple[str, str]:
    """PTX and entry of the kernel of `row`, compiled once for all tests."""
    if (row.name, cc) not in PTX:
        PTX[row.name, cc] = cuda_ptx(*kernel_of(row), cc=cc)
    return PTX[row.name, cc]


def body_of(row: Intrinsic, cc: tuple[int, int]) -> str:
    """What the kernel of `row` executes."""
    ptx, _ = ptx_of(row, cc)
    assert f".target sm_{cc[0]}{cc[1]}" in ptx
    return ptx[ptx.index("{") :]


@pytest.mark.parametrize("cc", CAPABILITIES, ids=lambda cc: f"sm_{cc[0]}{cc[1]}")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_intrinsic_becomes_its_instruction(row: Intrinsic, cc: tuple[int, int]) -> None:
    body = body_of(row, cc)
    assert re.search(expected(row), body), body
    if row.ordering in ("relaxed", "acquire", "release", "acq_rel", "seq_cst"):
        num_lanes = 2 if row.name.startswith("vec_") else 1  # one access a lane
        assert len(re.findall(r"\.(?:cta|gpu|sys)\b", body)) == num_lanes, body
    else:
        assert not re.search(r"\.(?:gpu|sys)\b", body), body


@pytest.mark.skipif(bool(NO_ASSEMBLER), reason=NO_ASSEMBLER or "nvJitLink")
@pytest.mark.parametrize("cc", CAPABILITIES, ids=lambda cc: f"sm_{cc[0]}{cc[1]}")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_intrinsic_assembles(row: Intrinsic, cc: tuple[int, int]) -> None:
    ptx, entry = ptx_of(row, cc)
    cubin = cuda_cubin(ptx, cc)
    assert cubin.startswith(b"\x7fELF")
    assert entry.encode() in cubin


@device_function
def lock(word):
    """Take the spin lock at `word`."""
    while load_acquire_i64(word, 0) != 0:
        pause()


@device_function
def publish(base, value):
    """Write `value` and raise the flag after it."""
    store_i64(base, 1, value)
    store_release_i64(base, 0, 1)


def consume(base, out):
    lock(base)
    store_i64(out, 0, load_i64(base, 1))
    publish(out, 7)


@pytest.mark.parametrize("cc", CAPABILITIES, ids=lambda cc: f"sm_{cc[0]}{cc[1]}")
def test_device_functions_are_inlined_and_keep_their_order(cc: tuple[int, int]) -> None:
    ptx, _ = cuda_ptx(consume, "void(int64, int64)", cc=cc)
    body = ptx[ptx.index("{") :]
    assert "call" not in body
    # The loop waits and acquires, the access to the data stands after it, the release comes last.
    loop = [r"\$L__BB0_\d+:", r"nanosleep", r"ld\.acquire\.sys", r"bra"]
    order = [*loop, r"ld\.global", r"st\.global", r"st\.release\.sys"]
    position = 0
    for pattern in order:
        found = re.search(pattern, body[position:])
        assert found, (pattern, body)
        position += found.end()


def axpy(out, x, scale_at, num_elements):
    """out[i] += scale * x[i] over all lanes: the same source on every target."""
    i = lane_index() * vec_lanes_f32()
    scale = vec_load_f32(scale_at, 0)
    while i + vec_lanes_f32() <= num_elements:
        vec_store_f32(out, i, vec_fma_f32(scale, vec_load_f32(x, i), vec_load_f32(out, i)))
        i += num_lanes() * vec_lanes_f32()
    fetch_add_i64(scale_at, 16, 1)


def test_one_source_compiles_for_every_target() -> None:
    signature = "void(int64, int64, int64, int64)"
    kernel = cpu_kernel(signature)(axpy)
    for cc in CAPABILITIES:
        ptx, _ = cuda_ptx(kernel, signature, cc=cc)
        assert len(re.findall(f"ld{VECTOR}", ptx)) >= 3
        assert "atom.acq_rel.sys.global.add.u64" in ptx
    x, out, scale = np.arange(64, dtype="float32"), np.ones(64, "float32"), np.zeros(64, "float32")
    scale[:16] = 2
    kernel(out.ctypes.data, x.ctypes.data, scale.ctypes.data, 64)  # CUDA has taken nothing from the CPU
    np.testing.assert_array_equal(out, 1 + 2 * x)
    assert scale.view("int64")[16] == 1


def test_what_only_a_cpu_has_is_refused_by_name() -> None:
    def kernel(word):
        futex_wake(word, 1)

    with pytest.raises(KernelRefused, match="futex_wake runs on the CPU only"):
        cuda_ptx(kernel, "void(int64)")


@pytest.mark.skipif(bool(NO_ASSEMBLER), reason=NO_ASSEMBLER or "nvJitLink")
def test_bad_ptx_is_refused_with_the_assemblers_words() -> None:
    ptx, _ = cuda_ptx(consume, "void(int64, int64)", cc=(9, 0))
    with pytest.raises(DeviceError, match="sm_90"):
        cuda_cubin(ptx.replace("ld.acquire.sys", "ld.acquires.sys"), (9, 0))


def test_a_missing_compiler_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DeviceMissing, match="pip install"):
        cuda_ptx(consume, "void(int64, int64)")
