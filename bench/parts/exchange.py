"""Two ranks swap blocks: by stores into each other's memory, by messages."""

from __future__ import annotations

import numpy as np

from umem.bench.parts import speed_loops
from umem.kernels.status import OK
from umem.space.space import Space
from umem.units import align_up

from ..harness.stats import Samples
from . import message_loops as loops
from .base import SpacePart
from .message import UcxPart

MAX_BATCH = 100
BATCH_BYTES = 1 << 20
FLAG_BYTES = 128


class Mapped(SpacePart):
    """Ranks 0 and 1 copy a block into each other's inbox and raise a flag; a sample is a batch's mean."""

    def __init__(self, space: Space, num_bytes: int):
        super().__init__(space)
        self.num_bytes = num_bytes
        self.batch = max(2, min(MAX_BATCH, BATCH_BYTES // num_bytes))
        self.flag = align_up(2 * num_bytes, FLAG_BYTES)
        boxes = [self.shared(self.flag + FLAG_BYTES, home=home) for home in (0, 1)]
        self.takes_part = self.rank < 2
        if self.takes_part:
            self.inbox, self.outbox = boxes[self.rank], boxes[1 - self.rank]
            self.mine = np.full(2 * num_bytes, self.rank + 1, np.uint8)
        self.lap = 1

    def load_store(self, num_samples: int) -> Samples | None:
        """Rounds in batches."""
        samples = self.timed(num_samples, self.batch, self._run)
        if self.takes_part:
            received = self.inbox.numpy()[: 2 * self.num_bytes]
            self.expect(bool((received == 2 - self.rank).all()))
            received[:] = 0
        self.space.barrier()
        return samples

    def _run(self) -> int:
        first = self.lap
        self.lap += self.batch
        if not self.takes_part:
            return OK
        code = speed_loops.swap(
            self.space.control,
            self.outbox.address,
            self.mine.ctypes.data,
            self.num_bytes,
            self.outbox.address + self.flag,
            self.inbox.address + self.flag,
            first,
            self.batch,
            self.deadline_ns(),
        )
        return int(code)


class Message(UcxPart):
    """The same with a send and a receive at once in each of the two ranks; each round is timed."""

    def __init__(self, space: Space, num_bytes: int):
        super().__init__(space)
        self.num_bytes = num_bytes
        self.src = np.full(num_bytes, self.rank + 1, np.uint8)
        self.dst = np.zeros(num_bytes, np.uint8)

    def message(self, num_samples: int) -> Samples | None:
        """Rounds."""
        self.space.barrier()
        if not self.takes_part:
            return None
        self.dst[:] = 0
        samples = self.rounds(num_samples, self.warm_rounds(self.num_bytes), self._swap)
        self.expect(bool((self.dst == 2 - self.rank).all()))
        return samples if self.is_timed else None

    def _swap(self, num_rounds: int, times: int) -> int:
        code = loops.swap(
            self.port.address,
            self.endpoint,
            self.other,
            self.src.ctypes.data,
            self.dst.ctypes.data,
            self.num_bytes,
            self.out_tag,
            self.in_tag,
            num_rounds,
            times,
            self.deadline_ns(),
        )
        return int(code)
