"""Rows and sides made up for tests: no ranks, no clock."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from umem.bench.harness.rows import Row
from umem.bench.harness.side import Side

ROW = Row(
    case="latency.line",
    semantics="load_store",
    peer=None,
    transport="mapped",
    world="mapped",
    cache="none",
    home="peer",
    ranks=2,
    bytes=8,
    p50_us=0.1,
    p99_us=0.2,
    cv=0.05,
    samples=200,
    gbps=None,
    errors=0,
    limit_name="c",
    limit=0.09,
    fraction_of_limit=0.9,
    status="Passed",
    host="a machine",
    version="0.1.0",
    commit="abc",
    seed=1,
    pair="latency.line/8",
)


def row(**changes):
    """ROW with some fields changed."""
    return replace(ROW, **changes)


class FakeSide(Side):
    """Gives `values` in turn as the time of a block; notes when it ran in `log`."""

    def __init__(self, name, values, log=None, errors=0, failure=None):
        super().__init__(name, "load_store")
        self.values, self.log, self.errors, self.failure = list(values), log, errors, failure
        self.num_blocks = 0
        self.is_open = False

    def open(self):
        if self.failure:
            raise self.failure
        self.is_open = True

    def block(self, num_samples):
        if self.log is not None:
            self.log.append(self.name)
        value = self.values[self.num_blocks % len(self.values)]
        self.num_blocks += 1
        return np.full(num_samples, value)

    def num_errors(self):
        return self.errors

    def close(self):
        self.is_open = False
