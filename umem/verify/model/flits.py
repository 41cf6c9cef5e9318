"""The protocol as agents carry it out by messages: every order in which the flits of one line may arrive.

A home whose memory no other rank maps, and ranks with one slot each for the line. A rank claims its slot, asks
the home's agent, and installs what comes. The home takes a request when the line's lock is free, sends probes to
the holders, waits for all their answers, does the rest of the row, replies, and unlocks at once. Requests and
replies travel apart from probes and answers, so that either may overtake the other. An owner's store takes two
steps, pin and store.

`Rules` are the design's decisions, one a method: a check plants a bug by overriding one of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...coherence.machine import HOME_RANK, Attribute, key_text, names_after, violation
from ...coherence.protocol import Action, Copy, Directory, Protocol, Relation, Request, Row
from ...coherence.search import Illegal
from .flit_state import (
    OWNED,
    Data,
    Flit,
    Kind,
    Network,
    Node,
    Tag,
    World,
    aged,
    is_locked,
    is_quiet,
    is_reply,
    is_to_home,
    owner_of,
    relation_of,
    start,
    text,
    with_node,
)
from .rules import Rules

_FORWARDS = Action.FORWARD_SHARED | Action.FORWARD_INVALID


class Flits:
    """The model of one line that `num_ranks` ranks access in memory of one attribute, and its home."""

    def __init__(
        self,
        protocol: Protocol,
        num_ranks: int,
        attribute: Attribute = Attribute.BACK,
        rules: Rules | None = None,
    ):
        self.name = f"{protocol.name} flits {attribute.name.lower()}, {num_ranks} ranks"
        self._protocol, self._num_ranks, self._attribute = protocol, num_ranks, attribute
        self._rules = rules or Rules()
        separate = self._rules.separates_networks
        self._probes = Network.PROBES if separate else Network.REPLIES
        self._answers = Network.ANSWERS if separate else Network.REQUESTS

    def start(self) -> World:
        """A line that no rank has touched."""
        return start(self._num_ranks)

    def canonical(self, state: World) -> World:
        """The state with its ranks sorted by their own states: ranks are interchangeable."""
        return state._replace(nodes=tuple(sorted(state.nodes)))

    def is_quiet(self, state: World) -> bool:
        """Whether all that was asked has been answered."""
        return is_quiet(state)

    def text(self, state: World) -> str:
        """The state in words."""
        return text(state)

    def failure(self, state: World) -> str | None:
        """SWMR, data-value, and that no network ever holds two flits between a rank and the home."""
        nodes = list(enumerate(state.nodes))
        owners = [rank for rank, node in nodes if node.tag in OWNED]
        readers = [rank for rank, node in nodes if node.tag is Tag.S]
        stale = [rank for rank in owners + readers if state.nodes[rank].data is not Data.NEWEST]
        home_reads = state.directory is not Directory.M  # without a look at the lock
        broken = violation(owners, readers, owner_of(state), stale, home_reads, state.home is Data.NEWEST)
        return broken or self._too_many_flits(state)

    def _too_many_flits(self, state: World) -> str | None:
        bound = 1 if self._rules.separates_networks else 2
        for rank, node in enumerate(state.nodes):
            for network, flits in zip(Network, node.queues, strict=True):
                if len(flits) > bound:
                    what = network.name.lower()
                    return f"unbounded: {len(flits)} {what} between rank {rank} and the home at once"
        return None

    def steps(self, state: World) -> Iterator[tuple[str, World]]:
        """Every access, every arrival of a flit; of ranks that are in the same state only one moves."""
        for rank, node in enumerate(state.nodes):
            if node in state.nodes[:rank]:
                continue
            yield from self._accesses(state, rank, node)
            for network, flits in zip(Network, node.queues, strict=True):
                if flits:
                    received = with_node(state, rank, node.received(network))
                    arrives = self._home_receives if is_to_home(flits[0]) else self._rank_receives
                    yield from arrives(received, rank, flits[0])
        if not is_locked(state):
            for request in (Request.GET_SHARED, Request.WRITE_HOME):
                label = f"home: {'loads' if request is Request.GET_SHARED else 'stores'}"
                yield label, self._begin(state._replace(own=(request,)), HOME_RANK, label)

    # --- a rank

    def _accesses(self, state: World, rank: int, node: Node) -> Iterator[tuple[str, World]]:
        """The steps that a rank's threads may take by themselves: begin an access, store, drop a copy."""
        tag = node.tag
        if tag is Tag.PINNED:
            stored = aged(state)
            node = stored.nodes[rank]._replace(tag=self._rules.tag_after_store(tag), data=Data.NEWEST)
            yield f"rank {rank}: stores", with_node(stored, rank, node)
        if tag is Tag.S:
            node_without = node._replace(tag=Tag.I, data=Data.NONE)
            yield f"rank {rank}: drops its copy", with_node(state, rank, node_without)
        if node.is_waiting or tag is Tag.PINNED:
            return
        if tag is Tag.I:
            yield self._asks(state, rank, Kind.GET_SHARED, Tag.FILLING)
        if tag in OWNED:
            yield self._asks(state, rank, Kind.PUT_OWNED, Tag.TAKEN)
        if self._attribute is Attribute.THROUGH:
            yield self._asks(state, rank, Kind.WRITE_HOME, tag)
        elif tag in OWNED:
            yield f"rank {rank}: pins its copy", with_node(state, rank, node._replace(tag=Tag.PINNED))
        else:
            yield self._asks(state, rank, Kind.GET_OWNED, Tag.FILLING)

    def _asks(self, state: World, rank: int, kind: Kind, tag: Tag) -> tuple[str, World]:
        node = state.nodes[rank]
        data = Data.NONE
        if kind is Kind.PUT_OWNED:
            data = self._rules.line_given_back(node.tag, node.data)
        elif kind is Kind.GET_OWNED and node.data is not Data.NONE:
            data = Data.STALE  # it says that it holds a copy
        node = node._replace(tag=tag, is_waiting=True).sent(Network.REQUESTS, Flit(kind, data))
        return f"rank {rank}: {kind.name}", with_node(state, rank, node)

    def _rank_receives(self, state: World, rank: int, flit: Flit) -> Iterator[tuple[str, World]]:
        """The state once a rank has handled a flit; none where the flit has to wait."""
        label = f"rank {rank}: receives {flit.kind.name}"
        node, rules = state.nodes[rank], self._rules
        if is_reply(flit):
            yield label, with_node(state, rank, self._installed(node, flit, label))
            return
        if flit.kind is Kind.INVALIDATE:
            if node.tag in OWNED:
                raise Illegal(label, f"unexpected: INVALIDATE at rank {rank}, which owns the line")
            tag, answer = rules.tag_after_invalidate(node.tag), Flit(Kind.ACK)
        else:
            if rules.waits_with_take(node.tag):
                return
            if not rules.can_be_taken(node.tag):
                raise Illegal(
                    label, f"unexpected: {flit.kind.name} at rank {rank}, whose slot is {node.tag.name}"
                )
            answer = Flit(Kind.LINE, rules.line_taken(node.tag, node.data))
            tag = rules.tag_after_take(node.tag, flit.kind)
        holds = tag not in (Tag.I, Tag.DROPPED)
        node = node._replace(tag=tag, data=node.data if holds else Data.NONE)
        yield label, with_node(state, rank, node.sent(self._answers, answer))

    def _installed(self, node: Node, flit: Flit, label: str) -> Node:
        """The rank's state after the reply to its request."""
        done = node._replace(is_waiting=False)
        if flit.kind is Kind.DONE:
            if node.tag in (Tag.FILLING, Tag.DROPPED):
                raise Illegal(label, f"unexpected: DONE at a slot that is {node.tag.name}")
            return done._replace(tag=Tag.I, data=Data.NONE) if node.tag is Tag.TAKEN else done
        if node.tag not in (Tag.FILLING, Tag.DROPPED):
            raise Illegal(label, f"unexpected: {flit.kind.name} at a slot that is {node.tag.name}")
        data = node.data if flit.data is Data.NONE else flit.data
        if data is Data.NONE:
            raise Illegal(label, "data-value: a copy is granted without the line, and the rank has none")
        tag = self._rules.tag_after_grant(node.tag, Copy(flit.kind - Kind.DONE))
        if tag is not Tag.I:
            return done._replace(tag=tag, data=data)
        if data is Data.STALE:
            raise Illegal(label, "data-value: a load gets what was stale when it began")
        return done._replace(tag=Tag.I, data=Data.NONE)

    # --- the home

    def _home_receives(self, state: World, rank: int, flit: Flit) -> Iterator[tuple[str, World]]:
        """The state once the home's agent has handled a flit; none where the flit has to wait."""
        label = f"home: receives {flit.kind.name} of rank {rank}"
        node = state.nodes[rank]
        if flit.kind in (Kind.ACK, Kind.LINE):
            if flit.kind is Kind.LINE:
                state = state._replace(home=flit.data)
            state = with_node(state, rank, node._replace(is_asked=False))
            yield label, self._finish_if_answered(state, label)
        elif not is_locked(state):
            yield label, self._begin(with_node(state, rank, node._replace(served=(flit,))), rank, label)

    def _begin(self, state: World, rank: int, label: str) -> World:
        """Lock the line for the request of a rank, or of the home, and probe its holders."""
        request, row, _ = self._row(state, rank, label)
        actions = row.actions
        probe, asked = Kind.INVALIDATE, []
        if actions & _FORWARDS:
            owner = owner_of(state)
            assert owner is not None, "check_rows: only a line in M is forwarded"
            probe = Kind.TAKE_SHARED if actions & Action.FORWARD_SHARED else Kind.TAKE_INVALID
            asked = [owner]
        elif actions & (Action.INVALIDATE | Action.INVALIDATE_ALL):
            asked = [
                other
                for other, node in enumerate(state.nodes)
                if (node.is_named or actions & Action.INVALIDATE_ALL)
                and (other != rank or self._rules.invalidates_requester(request))
            ]
        for other in asked:
            node = state.nodes[other]._replace(is_asked=True)
            state = with_node(state, other, node.sent(self._probes, Flit(probe)))
        if self._rules.waits_for_answers:
            return self._finish_if_answered(state, label)
        return self._finish(state, rank, label)

    def _finish_if_answered(self, state: World, label: str) -> World:
        if any(node.is_asked for node in state.nodes):
            return state
        if state.own:
            return self._finish(state, HOME_RANK, label)
        served = next((rank for rank, node in enumerate(state.nodes) if node.served), None)
        return state if served is None else self._finish(state, served, label)

    def _finish(self, state: World, rank: int, label: str) -> World:
        """The rest of the row: home memory, the directory, the reply, the lock."""
        request, row, relation = self._row(state, rank, label)
        actions, home = row.actions, state.home
        flit = Flit(Kind(request)) if rank == HOME_RANK else state.nodes[rank].served[0]
        if actions & Action.WRITE_BACK and flit.data is not Data.NONE:
            home = flit.data
        if actions & Action.ACCESS_HOME and home is not Data.NEWEST:
            raise Illegal(label, "data-value: an access at the home finds a stale value")
        before = {other for other, node in enumerate(state.nodes) if node.is_named}
        names = names_after(row, state.directory, before, rank)
        nodes = tuple(node._replace(is_named=other in names) for other, node in enumerate(state.nodes))
        state = World(row.directory, home, (), nodes)
        if request is Request.WRITE_HOME:
            state = aged(state)._replace(home=Data.NEWEST)
        if rank == HOME_RANK:
            return state
        data = home if actions & Action.READ_HOME and self._rules.sends_line(relation, flit) else Data.NONE
        node = state.nodes[rank]
        reply = Flit(Kind(Kind.DONE + row.copy), data)
        return with_node(state, rank, node._replace(served=()).sent(Network.REPLIES, reply))

    def _row(self, state: World, rank: int, label: str) -> tuple[Request, Row, Relation]:
        if rank == HOME_RANK:
            request, relation = state.own[0], Relation.HOME
        else:
            request, relation = Request(state.nodes[rank].served[0].kind), relation_of(state, rank)
        row = self._protocol.row(state.directory, request, relation)
        if row is None:
            raise Illegal(label, f"no row for {key_text((state.directory, request, relation))}")
        return request, row, relation
