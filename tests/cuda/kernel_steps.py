"""Every kernel that umem ships for CUDA, run as PTX on the driver, against NumPy: one process for all of them."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import ml_dtypes
import numpy as np
from arena import MODES, Arena, arena, options
from group_kernels import COPIES
from page_kernels import barrier_of_blocks, signals_of_blocks

from umem.errors import UmemError
from umem.kernels.data import copy, gather, gather_sum, reduce, reference
from umem.kernels.page import control

NEVER = 1 << 62  # bytes from which a copy streams
GUARD = 64
NUM_RANKS, ROUNDS = 5, 20
META_STRIDE_LOG2 = 16
rng = np.random.default_rng(7)


def copies(gpu: Arena) -> None:
    """Every byte, at odd alignment too, and nothing else."""
    src, dst, _ = (gpu[n] for n in range(3))
    for shift in (0, 1, 4, 16):
        for size in (0, 1, 15, 64, 20_003):
            data = rng.integers(0, 256, size + GUARD, np.uint8)
            around = np.full(size + 2 * GUARD, 0xEE, np.uint8)
            expected = around.copy()
            expected[GUARD : GUARD + size] = data[shift : shift + size]
            for stream_bytes in (NEVER, 0):
                gpu.put(src, data), gpu.put(dst, around)
                gpu.run(copy.cuda_copy, dst + GUARD, src + shift, size, stream_bytes)
                np.testing.assert_array_equal(gpu.got(dst, np.uint8, len(around)), expected)


def copies_of_groups(gpu: Arena) -> None:
    """By a thread, a warp (whole, and a part of one), a block."""
    src, dst, _ = (gpu[n] for n in range(3))
    for form, body in COPIES.items():
        for threads in (20, 70):
            for to, shift, size in (
                (0, 0, 4096),
                (3, 3, 1001),
                (1, 0, 777),
                (4, 0, 90),
                (0, 8, 15),
                (5, 5, 0),
            ):
                data = rng.integers(0, 256, size + GUARD, np.uint8)
                expected = np.full(size + 2 * GUARD, 0xEE, np.uint8)
                gpu.put(src, data), gpu.put(dst, expected)
                expected[GUARD + to : GUARD + to + size] = data[shift : shift + size]
                gpu.run(body, dst + GUARD + to, src + shift, size, blocks=2, threads=threads)
                np.testing.assert_array_equal(gpu.got(dst, np.uint8, len(expected)), expected, form)


def copies_of_rows(gpu: Arena) -> None:
    src, dst, _ = (gpu[n] for n in range(3))
    for row_bytes, src_stride, dst_stride in ((40, 40, 64), (3, 7, 5), (16, 48, 16)):
        before, data = np.zeros(50 * dst_stride, np.uint8), rng.integers(0, 256, 50 * src_stride, np.uint8)
        gpu.put(src, data), gpu.put(dst, before)
        gpu.run(copy.cuda_copy_2d, dst, dst_stride, src, src_stride, 50, row_bytes)
        expected = reference.copy_2d(before, dst_stride, data, src_stride, 50, row_bytes)
        np.testing.assert_array_equal(gpu.got(dst, np.uint8, len(before)), expected)


def gathers(gpu: Arena) -> None:
    rows, wanted, dst = (gpu[n] for n in range(3))
    for width in (1, 4, 8, 24, 128):
        table, indices = rng.integers(0, 256, (1000, width), np.uint8), rng.integers(0, 1000, 300)
        gpu.put(rows, table), gpu.put(wanted, indices)
        gpu.run(gather.cuda_gather_rows, dst, rows, wanted, 300, width)
        np.testing.assert_array_equal(
            gpu.got(dst, np.uint8, 300 * width).reshape(300, width), reference.gather_rows(table, indices)
        )


def gathered_sums(name: str) -> Callable[[Arena], None]:
    """Of one type of row, with bags of no and of many rows."""
    dtype = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}[name]

    def check(gpu: Arena) -> None:
        rows, wanted, dst = (gpu[n] for n in range(3))
        num_cols, num_bags = 33, 50
        table = rng.integers(-8, 8, (500, num_cols)).astype(dtype)
        offsets = np.sort(np.concatenate([[0, 0, 400], rng.integers(0, 400, num_bags - 2)]))
        indices = rng.integers(0, 500, 400)
        gpu.put(rows, table), gpu.put(wanted, indices), gpu.put(wanted + 65536, offsets)
        body = gather_sum.CUDA_GATHER_SUM[name]
        gpu.run(body, dst, rows, wanted, wanted + 65536, num_bags, num_cols, table.strides[0])
        np.testing.assert_array_equal(
            gpu.got(dst, np.float32, num_bags * num_cols).reshape(num_bags, num_cols),
            reference.gather_sum(table, indices, offsets),
        )

    return check


def sums(name: str) -> Callable[[Arena], None]:
    """Of one type of element, over 2 to 5 sources."""
    dtype = np.dtype(ml_dtypes.bfloat16 if name == "bf16" else name.replace("i", "int").replace("f", "float"))

    def check(gpu: Arena) -> None:
        src, dst, table = (gpu[n] for n in range(3))
        for num_sources, num in ((2, 1), (2, 3001), (3, 9001), (5, 512)):
            arrays = [(rng.standard_normal(num) * 100).astype(dtype) for _ in range(num_sources)]
            step = num * dtype.itemsize + 4096 & -4096
            for n, array in enumerate(arrays):
                gpu.put(src + n * step, array)
            gpu.put(table, np.array([src + n * step for n in range(num_sources)]))
            for stream_bytes in (NEVER, 0):
                gpu.run(
                    reduce.CUDA_REDUCE[name], dst, table, num_sources, num, stream_bytes, blocks=2, threads=32
                )
                np.testing.assert_array_equal(gpu.got(dst, dtype, num), expected_sum(arrays, name))

    return check


def expected_sum(arrays: list[np.ndarray], name: str) -> np.ndarray:
    """The sum with what the kernel keeps between two additions: float32 for narrow floats."""
    if name not in ("f16", "bf16"):
        return reference.reduce(arrays)
    return reference.reduce([array.astype(np.float32) for array in arrays]).astype(arrays[0].dtype)


def signals(gpu: Arena) -> None:
    """Blocks that post to each other by turns: no value is lost, what was written before is seen."""
    page, out = gpu[0], gpu[1]
    write_pages(gpu, 1)
    gpu.run(signals_of_blocks, page, out, ROUNDS, blocks=2, threads=1)
    wrong, completed = gpu.words(out + 4096, 2)
    assert (wrong, completed) == (0, ROUNDS), f"{wrong} wrong of {completed}"


def barriers(gpu: Arena) -> None:
    """Blocks as ranks, each with a page: after the barrier all have seen what all have written."""
    out = gpu[1]
    write_pages(gpu, NUM_RANKS)
    gpu.run(barrier_of_blocks, gpu[0], out, ROUNDS, blocks=NUM_RANKS, threads=1)
    words = gpu.words(out, 2 * NUM_RANKS * 16)[::16]
    assert (words[:NUM_RANKS] == ROUNDS).all() and not words[NUM_RANKS:].any(), words


def write_pages(gpu: Arena, num_ranks: int) -> None:
    """Control pages of `num_ranks` ranks, as far as signals and barriers read them, in region 0."""
    gpu.clear()
    for rank in range(num_ranks):
        page = np.zeros(1 << (META_STRIDE_LOG2 - 3), np.int64)
        page[control.CONTROL_META_BASE], page[control.CONTROL_META_STRIDE_LOG2] = gpu[0], META_STRIDE_LOG2
        page[control.CONTROL_NUM_RANKS], page[control.CONTROL_RANK], page[control.CONTROL_SPIN_ROUNDS] = (
            num_ranks,
            rank,
            8,
        )
        gpu.put(gpu[0] + (rank << META_STRIDE_LOG2), page)


KERNELS: dict[str, Callable[[Arena], None]] = {
    "copy": copies,
    "copies of groups": copies_of_groups,
    "copy_2d": copies_of_rows,
    "gather_rows": gathers,
    "signals": signals,
    "barrier": barriers,
} | {f"gather_sum_{name}": gathered_sums(name) for name in gather_sum.CUDA_GATHER_SUM}
KERNELS |= {f"reduce_{name}": sums(name) for name in reduce.CUDA_REDUCE}


def run_all() -> None:
    """Print a line a mode and kernel: ok, or what went wrong."""
    with arena() as gpu:
        for mode, chosen in MODES.items():
            for name, check in KERNELS.items():
                with options(**chosen):
                    try:
                        check(gpu)
                        said = "ok"
                    except (AssertionError, UmemError) as error:
                        traceback.print_exc()
                        said = f"failed: {str(error).splitlines()[:1]}"
                print(mode, name, said, flush=True)
