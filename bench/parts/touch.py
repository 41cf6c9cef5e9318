"""Buffers that are used: inputs are written before each operation, outputs are read and compared after it.

An operation on buffers that nobody touches between two of its calls runs from caches, up to twice as fast as any
program would see it. Sides of every kind touch alike, by the kernels here.
"""

from __future__ import annotations

import ctypes

import numpy as np

from umem.kernels.build.compile import cpu_kernel, device_function
from umem.kernels.intrinsics.scalar import load_i64, load_u8, store_i64
from umem.kernels.intrinsics.system import copy_bytes, now_ns

from ..harness.collective import NUM_FILLINGS, TILE_BYTES, TOGETHER_BYTES, Operation

# Words of the plan that compiled loops take.
PLAN_LAP = 0  # operations so far: their parity is the turn
PLAN_WRONG = 1  # words of outputs that were not what they must be
PLAN_BEFORE = 2  # [turn, (address of rows, number of rows)]: what inputs are filled with
PLAN_AFTER = PLAN_BEFORE + 2 * NUM_FILLINGS
PLAN_WORDS = PLAN_AFTER + 2 * NUM_FILLINGS
TOUCH_AT, TOUCH_TILE, TOUCH_BYTES, TOUCH_WORDS = 0, 1, 2, 3


@device_function
def fill(dst, tile, num_bytes):
    """Repeat a tile in `num_bytes` at `dst`."""
    offset = 0
    while offset < num_bytes:
        copy_bytes(dst + offset, tile, min(TILE_BYTES, num_bytes - offset))
        offset += TILE_BYTES


@device_function
def num_differing(src, tile, num_bytes):
    """How many words, and bytes of the last one, are not those of the repeated tile."""
    differing = 0
    offset = 0
    while offset < num_bytes:
        length = min(TILE_BYTES, num_bytes - offset)
        word = 0
        while word < length // 8:
            differing += load_i64(src + offset, word) != load_i64(tile, word)
            word += 1
        byte = word * 8
        while byte < length:
            differing += load_u8(src + offset, byte) != load_u8(tile, byte)
            byte += 1
        offset += TILE_BYTES
    return differing


@device_function
def write_inputs(plan):
    """Fill the inputs of the next operation."""
    turn = 2 * (load_i64(plan, PLAN_LAP) & 1)
    rows, num_rows = load_i64(plan, PLAN_BEFORE + turn), load_i64(plan, PLAN_BEFORE + turn + 1)
    row = 0
    while row < num_rows:
        at = rows + 8 * TOUCH_WORDS * row
        fill(load_i64(at, TOUCH_AT), load_i64(at, TOUCH_TILE), load_i64(at, TOUCH_BYTES))
        row += 1


@device_function
def read_outputs(plan):
    """Compare the outputs of the operation, count what is wrong, and go on to the next."""
    lap = load_i64(plan, PLAN_LAP)
    turn = 2 * (lap & 1)
    rows, num_rows = load_i64(plan, PLAN_AFTER + turn), load_i64(plan, PLAN_AFTER + turn + 1)
    wrong = load_i64(plan, PLAN_WRONG)
    row = 0
    while row < num_rows:
        at = rows + 8 * TOUCH_WORDS * row
        wrong += num_differing(load_i64(at, TOUCH_AT), load_i64(at, TOUCH_TILE), load_i64(at, TOUCH_BYTES))
        row += 1
    store_i64(plan, PLAN_WRONG, wrong)
    store_i64(plan, PLAN_LAP, lap + 1)


def do_operation(operation, epoch, end_ns):
    """One operation; a status, 0 for OK. What a loop has in its place."""
    return 0


def meet(gate, epoch, end_ns):
    """Wait for all ranks; a status. What a loop has in its place."""
    return 0


def touched_operations(operation, gate, plan, num_samples, batch, times, epoch, end_ns):
    """Operations, `batch` a sample, in nanoseconds; where that is 1, what touches the buffers is not timed.

    A template: every way to do an operation has one of its own.
    """
    sample = 0
    while sample < num_samples:
        began = now_ns()
        if batch == 1:
            write_inputs(plan)
            code = meet(gate, epoch, end_ns)
            if code != 0:
                return code
            began = now_ns()
            code = do_operation(operation, epoch, end_ns)
            store_i64(times, sample, now_ns() - began)
            if code != 0:
                return code
            read_outputs(plan)
        else:
            done = 0
            while done < batch:
                write_inputs(plan)
                code = do_operation(operation, epoch, end_ns)
                if code != 0:
                    return code
                read_outputs(plan)
                done += 1
            store_i64(times, sample, (now_ns() - began) // batch)
        sample += 1
    return 0


TOUCHED = "int64(int64, int64, int64, int64, int64, int64, int64, int64)"
cpu_write_inputs = cpu_kernel("void(int64)")(write_inputs)
cpu_read_outputs = cpu_kernel("void(int64)")(read_outputs)


class Plan:
    """What a rank's side fills and compares, for compiled loops (`address`) and for Python."""

    def __init__(self, operation: Operation, src: int, dst: int):
        self.words = np.zeros(PLAN_WORDS, np.int64)
        self._kept: list[object] = []
        for turn in range(NUM_FILLINGS):
            for first, touches in (
                (PLAN_BEFORE, operation.before(src, turn)),
                (PLAN_AFTER, operation.after(dst, turn)),
            ):
                tiles = [ctypes.create_string_buffer(tile, len(tile)) for _, tile, _ in touches]
                rows = np.array(
                    [
                        (at, ctypes.addressof(tile), length)
                        for (at, _, length), tile in zip(touches, tiles, strict=True)
                    ],
                    np.int64,
                )
                self.words[first + 2 * turn : first + 2 * turn + 2] = rows.ctypes.data, len(rows)
                self._kept += [tiles, rows]

    @property
    def address(self) -> int:
        """Address of the plan's words."""
        return int(self.words.ctypes.data)

    def write_inputs(self) -> None:
        """Fill the inputs of the next operation."""
        cpu_write_inputs.compiled(self.address)

    def read_outputs(self) -> None:
        """Compare the outputs, and go on to the next operation."""
        cpu_read_outputs.compiled(self.address)

    def num_wrong(self) -> int:
        """Wrong words since the last call."""
        found = int(self.words[PLAN_WRONG])
        self.words[PLAN_WRONG] = 0
        return found


def operations_in_sample(operation: Operation, has_cores: bool) -> int:
    """Operations of a sample: their mean where one is too short for a clock, with touching, else each alone.

    Ranks without a core of their own take a hundred times as long.
    """
    if operation.num_bytes > TOGETHER_BYTES:
        return 1
    return 100 if has_cores else 10
