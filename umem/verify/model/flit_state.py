"""A line, its home, its ranks and the flits between them, as plain values that a search can compare."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from ...coherence.protocol import Copy, Directory, Relation, Request
from ...kernels.coherent import layout as words


class Tag(IntEnum):
    """State of a rank's slot: the table's copies, and the steps of a transaction."""

    I = words.INVALID  # noqa: E741 - the field's own name
    S = words.SHARED_COPY
    E = words.EXCLUSIVE
    M = words.MODIFIED
    PINNED = words.PINNED
    FILLING = words.FILLING
    DROPPED = words.DROPPED
    TAKEN = words.TAKEN


OWNED = frozenset({Tag.E, Tag.M, Tag.PINNED})  # its rank may store


class Data(IntEnum):
    """The age of a line's data, held in a slot or under way in a flit."""

    NEWEST = 0
    OVERTAKEN = 1  # in a reply: newest when the reply left, so no older than the load that asked
    STALE = 2
    NONE = 3  # there is no line


class Kind(IntEnum):
    """The kind of a flit. Requests have the numbers of the table's requests, replies those of its copies plus 4."""

    GET_SHARED = Request.GET_SHARED
    GET_OWNED = Request.GET_OWNED
    PUT_OWNED = Request.PUT_OWNED
    WRITE_HOME = Request.WRITE_HOME
    DONE = 4 + Copy.I
    GRANT_S = 4 + Copy.S
    GRANT_E = 4 + Copy.E
    GRANT_M = 4 + Copy.M
    INVALIDATE = 8
    TAKE_SHARED = 9
    TAKE_INVALID = 10
    ACK = 11
    LINE = 12


class Flit(NamedTuple):
    """A message; the data of an upgrade's request says only that its rank holds a copy."""

    kind: Kind
    data: Data = Data.NONE


class Network(IntEnum):
    """Flits of one kind in one direction; each is a queue a rank, and no queue waits for another."""

    REQUESTS = 0  # to the home
    REPLIES = 1
    PROBES = 2
    ANSWERS = 3  # to the home


class Node(NamedTuple):
    """A rank: its slot, its relation in the directory, the answer that it waits for, and the flits from and to it."""

    tag: Tag = Tag.I
    data: Data = Data.NONE
    is_named: bool = False
    is_waiting: bool = False  # for the reply to a request
    is_asked: bool = False  # the home waits for its answer to a probe
    served: tuple[Flit, ...] = ()  # its request, while the home works for it
    queues: tuple[tuple[Flit, ...], ...] = ((),) * len(Network)

    def sent(self, network: Network, flit: Flit) -> Node:
        """The node with one more flit under way, behind the others."""
        return self._with_queue(network, (*self.queues[network], flit))

    def received(self, network: Network) -> Node:
        """The node once the first flit of a network has arrived."""
        return self._with_queue(network, self.queues[network][1:])

    def _with_queue(self, network: Network, flits: tuple[Flit, ...]) -> Node:
        return self._replace(queues=(*self.queues[:network], flits, *self.queues[network + 1 :]))


class World(NamedTuple):
    """The whole state: directory entry, home memory, the home's own request if one is under way, and the ranks."""

    directory: Directory
    home: Data
    own: tuple[Request, ...]
    nodes: tuple[Node, ...]


def start(num_ranks: int) -> World:
    """A line that no rank has touched."""
    return World(Directory.U, Data.NEWEST, (), (Node(),) * num_ranks)


def is_locked(world: World) -> bool:
    """Whether the home works on a request, a rank's or its own."""
    return bool(world.own) or any(node.served for node in world.nodes)


def is_quiet(world: World) -> bool:
    """Whether nothing is under way: no request, no probe, no store."""
    return not world.own and not any(
        node.is_waiting or node.is_asked or node.served or node.tag is Tag.PINNED or any(node.queues)
        for node in world.nodes
    )


def owner_of(world: World) -> int | None:
    """The rank that owns the line, by the directory."""
    if world.directory is not Directory.M:
        return None
    return next((rank for rank, node in enumerate(world.nodes) if node.is_named), None)


def relation_of(world: World, rank: int) -> Relation:
    """The rank's relation to the line in the directory: owner, sharer or stranger."""
    if not world.nodes[rank].is_named:
        return Relation.STRANGER
    return Relation.OWNER if world.directory is Directory.M else Relation.SHARER


def with_node(world: World, rank: int, node: Node) -> World:
    """The world with another state of one rank."""
    return world._replace(nodes=(*world.nodes[:rank], node, *world.nodes[rank + 1 :]))


def aged(world: World) -> World:
    """The world after a store: every copy and every flit is older than the newest."""
    return world._replace(
        home=_older(world.home),
        nodes=tuple(_aged(node) if _has_newest(node) else node for node in world.nodes),
    )


def is_reply(flit: Flit) -> bool:
    """Whether a flit answers a request."""
    return Kind.DONE <= flit.kind <= Kind.GRANT_M


def is_to_home(flit: Flit) -> bool:
    """Whether a flit goes to the home: a request, or the answer to a probe."""
    return flit.kind <= Kind.WRITE_HOME or flit.kind >= Kind.ACK


def text(world: World) -> str:
    """The world in words: directory, home, a slot a rank, and the flits under way."""
    named = [rank for rank, node in enumerate(world.nodes) if node.is_named]
    slots = " ".join(
        node.tag.name + ("" if node.data in (Data.NEWEST, Data.NONE) else f"({node.data.name.lower()})")
        for node in world.nodes
    )
    asked = [rank for rank, node in enumerate(world.nodes) if node.is_asked]
    lock = " locked" + (f", asks {asked}," if asked else "") if is_locked(world) else ""
    return f"{world.directory.name}{named or ''}{lock} home {world.home.name.lower()}, slots {slots}"


def _has_newest(node: Node) -> bool:
    return node.data is Data.NEWEST or any(
        flit.data is Data.NEWEST for flits in (node.served, *node.queues) for flit in flits
    )


def _aged(node: Node) -> Node:
    queues = tuple(tuple(_aged_flit(flit) for flit in flits) for flits in node.queues)
    served = tuple(_aged_flit(flit) for flit in node.served)
    return node._replace(data=_older(node.data), served=served, queues=queues)


def _aged_flit(flit: Flit) -> Flit:
    if is_reply(flit) and flit.data is Data.NEWEST:
        return Flit(flit.kind, Data.OVERTAKEN)
    return Flit(flit.kind, _older(flit.data))


def _older(data: Data) -> Data:
    return Data.STALE if data is Data.NEWEST else data
