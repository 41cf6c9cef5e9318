"""How the hosts of a team pass its bytes on: pure functions from a step of an operation to a schedule of its leaders.

A sum goes along the hosts as a chain, so that it is added in the order of the members: host h adds what its members
have to what hosts before it have, a chunk a step, and the last one tells the result. Host h works at chunk c in step
c + h, while the others work at theirs. Members of these schedules are hosts.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from itertools import groupby

from .schedules import DST, SRC, Schedule

# Places in SRC of a chain's chunks, counted in rooms of a chunk: what came from the host before, what this host has
# made of it, and the result, which came from the last one.
CAME, MADE, RESULT = 0, 1, 2
NUM_ROOMS = 3


def hosts_of(names: Sequence[Hashable]) -> list[range]:
    """The positions of each host's members, by the members' host names; nothing where levels make no sense.

    They do where some members share a host and some do not, and each host's members follow each other.
    """
    hosts, begin = [], 0
    for _, run in groupby(names):
        end = begin + len(list(run))
        hosts.append(range(begin, end))
        begin = end
    num_hosts = len(set(names))
    return hosts if len(hosts) == num_hosts and 1 < num_hosts < len(names) else []


def chain_steps(num_chunks: int, num_hosts: int) -> range:
    """The steps of a chain, the last of which brings the last result."""
    return range(num_chunks + num_hosts)


def chain(
    host: int, num_hosts: int, step: int, chunk_bytes: Sequence[int], takers: Collection[int], room_bytes: int
) -> Schedule:
    """What the leader of `host` sends and receives at the begin of a step of a chain."""
    made, last, done = Schedule(), num_hosts - 1, step - num_hosts

    def size(chunk: int) -> int:
        return chunk_bytes[chunk] if 0 <= chunk < len(chunk_bytes) else 0

    if host > 0 and size(step - host):
        made.recv(host - 1, SRC, CAME * room_bytes, size(step - host))
    if host != last and host in takers and size(done):
        made.recv(last, SRC, RESULT * room_bytes, size(done))
    if host != last and size(step - host - 1):
        made.send(host + 1, SRC, MADE * room_bytes, size(step - host - 1))
    if host == last and size(done):
        for taker in sorted(set(takers) - {last}):
            made.send(taker, SRC, MADE * room_bytes, size(done))
    made.wait(0)
    return made


def star(host: int, num_hosts: int, root: int, begin: int, num_bytes: int) -> Schedule:
    """A piece of DST from host `root` to all others."""
    made = Schedule()
    if host == root:
        for other in range(num_hosts):
            if other != root:
                made.send(other, DST, begin, num_bytes)
    else:
        made.recv(root, DST, begin, num_bytes)
    made.wait(0)
    return made


def slabs(host: int, hosts: Sequence[range], length: int) -> Schedule:
    """Each host's blocks of `length` bytes in DST to all others."""
    made, own = Schedule(), hosts[host]
    others = [(host + hop) % len(hosts) for hop in range(1, len(hosts))]
    for other in reversed(others):
        made.recv(other, DST, hosts[other].start * length, len(hosts[other]) * length)
    for other in others:
        made.send(other, DST, own.start * length, len(own) * length)
    made.wait(0)
    return made
