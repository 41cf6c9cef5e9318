"""A protocol of one's own: MSI, but a rank that loads a line without copies owns it, and may then store silently."""

from pathlib import Path

import umem
from umem.coherence.protocol import GET_SHARED, MSI, READ_HOME, SET_OWNER, STRANGER, Copy, M, Protocol, Row, U

protocol = Protocol(
    "mine", {**MSI.rows, (U, GET_SHARED, STRANGER): Row(READ_HOME | SET_OWNER, M, Copy.E)}
)  # also for: umem verify model --protocol examples/own_protocol.py


def work(space):
    words = space.shared("words", 16, "int64", home=0, cache="back")
    space.fetch_add(words.address, space.rank + 1)
    space.barrier()
    return space.load(words.address, "int64")


if __name__ == "__main__":
    value = umem.launch(work, ranks=2, protocol=str(Path(__file__)))  # checked before it runs
    assert value == 3, value
    print(f"under the protocol {protocol.name!r} two ranks made {value}")
