"""What compiled code returns: one int64, 0 for success, 1 for "call me again", negative for an error.

A compiled wait never blocks for longer than SLICE_NS: it then returns AGAIN, so that Python can look at
signals, its deadline and its peers before it calls again.
"""

from __future__ import annotations

OK = 0
AGAIN = 1  # the slice has passed: call again
PENDING = 2  # an agent's handler: not finished, continue me later

NO_MEMORY = -1
OUT_OF_RANGE = -2  # an address or index outside of what it may touch
NOT_MAPPED = -3  # the address cannot be dereferenced by this rank
RANK_LOST = -4  # the peer that the wait depends on is confirmed dead
INTERRUPTED = -5  # the space is closing: control[CONTROL_STOP] is set
EPOCH_CHANGED = -6  # some rank died since the epoch that the caller gave
FULL = -7  # a bounded queue or table has no room
NOT_FOUND = -8
BAD_REQUEST = -9  # a request that its handler cannot understand
FABRIC_FAILED = -10  # the transport reported an error
POISONED = -11  # the data was lost with a dead rank
STALE = -12  # a handle whose generation has passed
BUSY = -13  # refused now, may succeed later
MISALIGNED = -14  # an address that is not a multiple of what the access needs
CACHED = -15  # memory of which ranks keep coherent copies: not for raw access
NOT_CACHED = -16  # memory of which ranks keep none, or copies of another line size
DEVICE_FAILED = -17  # a GPU's driver reported an error
WAIT_TIMEOUT = -18  # a kernel's wait has passed its deadline
MISMATCH = -19  # the members of a team called different things

# --- of the heap
NOT_ALLOCATED = -32  # no allocation covers the address
INTERIOR = -33  # the address is inside an allocation, not at its start
DOUBLE_FREE = -34  # it was allocated once and has been freed
NOT_HELD = -35  # this rank holds no reference to the allocation

SLICE_NS = 50_000_000  # longest stay in compiled code before AGAIN

_NAMES = {
    value: name
    for name, value in list(globals().items())
    if name.isupper() and isinstance(value, int) and name != "SLICE_NS"
}


def name(code: int) -> str:
    """Name of a status code, for error texts; the number itself where it is none of ours."""
    return _NAMES.get(code, f"status {code}")
