"""Workers for test_wire: `python worker.py SOCKET NUM_WORKERS` starts them all."""

from __future__ import annotations

import os
import sys
import time

import numpy as np

from umem.bench.harness.wire import serve
from umem.errors import AlignmentError, WaitTimeout


class Echo:
    def __init__(self, rank, word):
        self.rank, self.word = rank, word

    def say(self, number):
        return f"{self.word} {self.rank} {number}"

    def ramp(self, length):
        return np.arange(float(length))

    def misaligned(self):
        raise AlignmentError(3, 8)

    def fail_by_rank(self):
        if self.rank == 0:
            raise WaitTimeout("the other does not answer")
        self.misaligned()

    def divide(self, by):
        return 1 / by

    def doze(self, duration_s):
        time.sleep(duration_s)

    def die(self):
        os._exit(3)

    def close(self):
        pass


def main():
    path, num_workers = sys.argv[1], int(sys.argv[2])
    children = []
    for rank in range(num_workers):
        pid = os.fork()
        if pid == 0:
            serve(path, rank, rank)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
