"""Operations on memory by address, in one numbering: what a gate asks for, a flit carries and an agent serves."""

from __future__ import annotations

READ = 1  # bytes; one element where the reply's value is enough
WRITE = 2
FETCH_ADD = 3
EXCHANGE = 4
COMPARE_SWAP = 5
FLIT = 6  # a request of coherence: see kernels/coherent/flits.py
FETCH_ADD_FLOAT = 7  # inside flits only
BY_ADDRESS = (READ, WRITE, FETCH_ADD, EXCHANGE, COMPARE_SWAP)  # what homes do that are asked for raw memory
