"""Every intrinsic once, as PTX on the driver and compiled for the CPU: the same memory in, the same memory out."""

from __future__ import annotations

import ctypes
from typing import Any

import numba
import numpy as np
from arena import RUN_S, Arena, arena
from ptx_text import image

from tests.kernels.intrinsics.test_ptx import kernel_of
from umem.kernels.build.cuda import cuda_ptx
from umem.kernels.intrinsics.table import TABLE, Intrinsic
from umem.memory.device.cuda_run import Module, synchronize

ROWS = [row for row in TABLE.values() if "cuda" in row.targets]
# What differs between a GPU and a CPU by its nature: clocks, places, vectors' widths, calls that a GPU lacks.
OTHER_ON_A_GPU = {"now_ns", "cycles", "is_gpu", "lane_index", "num_lanes", "thread_stripe", "call_handler"}
WIDTH_BYTES = 16  # of a vector on CUDA; the CPU's are wider, and begin with the same lanes
SIZE, LINE_BYTES, SCALAR = 4096, 64, 3
C_TYPES = {
    f"{kind}{bits}": getattr(ctypes, f"c_{kind}{bits}")
    for kind in ("int", "uint")
    for bits in (8, 16, 32, 64)
}
C_TYPES |= {"float32": ctypes.c_float, "float64": ctypes.c_double}


def memory() -> np.ndarray:
    """Bits that are small numbers as floats, from a line's start on, as streamed vectors of the CPU ask."""
    room = np.zeros(SIZE + LINE_BYTES, np.uint8)
    start = -room.ctypes.data % LINE_BYTES
    room[start : start + SIZE] = np.tile(
        np.array([1.5, 2.25, -3.0, 4.0], np.float32).view(np.uint8), SIZE // 16
    )
    return room[start : start + SIZE]


def scalars(row: Intrinsic, dst: int, src: int, count: int) -> list[int]:
    """What the kernel of `row` is given beside `dst` and `src`: an access has its address and index first."""
    if row.operation == "copy_bytes":
        return [dst + SIZE // 2, src, 29]
    if row.is_access or row.operation.startswith("prefetch"):
        index = 0 if row.name.startswith("vec_") else SCALAR
        return [src, index, *[SCALAR] * count][:count]
    return [SCALAR] * count


def on_cpu(row: Intrinsic, body: Any, signature: str, count: int) -> np.ndarray:
    dst, src = memory(), memory()
    compiled = numba.njit(signature)(body)
    compiled(dst.ctypes.data, src.ctypes.data, *scalars(row, dst.ctypes.data, src.ctypes.data, count))
    return np.concatenate([dst, src])


def on_gpu(gpu: Arena, row: Intrinsic, body: Any, signature: str, names: list[str]) -> np.ndarray:
    gpu.put(gpu[0], memory()), gpu.put(gpu[1], memory())
    text, entry = cuda_ptx(body, signature)
    module = Module(gpu.gpu, image(text))
    types = [C_TYPES[name] for name in names]
    given = [gpu[0], gpu[1], *scalars(row, gpu[0], gpu[1], len(names) - 2)]
    module.launch(entry, given, types=types)
    synchronize(gpu.gpu, timeout_s=RUN_S)
    module.close()
    return np.concatenate([gpu.got(gpu[n], np.uint8, SIZE) for n in range(2)])


def compare(gpu: Arena, row: Intrinsic) -> str:
    if row.name in OTHER_ON_A_GPU or row.operation in ("vec_lanes", "vec_sum", "vec_equal"):
        return "is another on a GPU"
    body, signature = kernel_of(row)
    names = signature.removeprefix("void(").removesuffix(")").split(", ")
    expected, got = on_cpu(row, body, signature, len(names) - 2), on_gpu(gpu, row, body, signature, names)
    changed = np.flatnonzero(got != expected)
    width = WIDTH_BYTES // 2 if row.name.startswith("vec_store_f32_") else WIDTH_BYTES  # to 16 bits a lane
    is_wider = row.name.startswith("vec_")
    wrong = [int(at) for at in changed if not (is_wider and at % SIZE >= width)]
    return "ok" if not wrong else f"differs at {wrong[:4]}"


def run_all() -> None:
    """Print a line an intrinsic."""
    with arena() as gpu:
        for row in ROWS:
            print(row.name, compare(gpu, row), flush=True)
