"""Small messages by loads and stores: a ring in the receiver's memory, a doorbell for every few of them."""

from __future__ import annotations

from umem.bench.parts import speed_loops
from umem.kernels.status import OK
from umem.space.space import Space

from ..harness.stats import Samples
from .base import SpacePart

SENDER, RECEIVER = 0, 1
_NUM_SLOTS = 1024
LINE_BYTES = 128


class Ring(SpacePart):
    """8-byte messages from rank 0 to rank 1, `per_doorbell` for each release store."""

    def __init__(self, space: Space, per_doorbell: int, num_messages: int):
        super().__init__(space)
        self.per_doorbell, self.num_messages = per_doorbell, num_messages
        inbox = self.shared(_NUM_SLOTS * 8 + LINE_BYTES, home=RECEIVER).address
        self.ring, self.doorbell = inbox, inbox + _NUM_SLOTS * 8
        self.taken = self.shared(LINE_BYTES, home=SENDER).address
        self.first = 0

    def load_store(self, num_samples: int) -> Samples | None:
        """Batches; a sample is the mean time of a message."""
        return self.timed(num_samples, self.num_messages, self._run)

    def _run(self) -> int:
        control, words = self.space.control, (self.ring, _NUM_SLOTS, self.doorbell, self.taken)
        span = (self.first, self.num_messages)
        self.first += self.num_messages
        if self.rank == SENDER:
            return int(
                speed_loops.post_messages(control, *words, *span, self.per_doorbell, self.deadline_ns())
            )
        if self.rank == RECEIVER:
            wrong = int(speed_loops.take_messages(control, *words, *span, self.deadline_ns()))
            if wrong < 0:
                return wrong
            self._errors += wrong
        return OK
