"""Ranks that meet, in every kind of world: exchange, named blobs, descriptors, each other."""

from __future__ import annotations

import os

import pytest

from tests.world import rank_functions
from umem.errors import ConfigError

RANKS = (1, 2, 4, 8)


@pytest.mark.parametrize("ranks", RANKS)
def test_all_ranks_have_one_view_of_the_world(run_bare, world_kind, ranks):
    views = run_bare(rank_functions.tell_everything, ranks, world_kind)
    assert [view["rank"] for view in views] == list(range(ranks))
    pids = tuple(view["pid"] for view in views)
    assert len(set(pids)) == ranks
    for rank, view in enumerate(views):
        assert view["blobs"] == [bytes([peer]) * (peer + 1) for peer in range(ranks)]
        assert view["again"] == [b"again %d" % peer for peer in range(ranks)]
        assert view["published"] == 1_000_000
        assert view["pids"] == pids and all(view["alive"])
        assert view["hosts"] == views[0]["hosts"]
        same_host = [host == view["hosts"][rank] for host in view["hosts"]]
        expected = [peer == rank for peer in range(ranks)] if world_kind == "no-peer-access" else same_host
        assert view["may_map"] == expected
        peers = [peer for peer in range(ranks) if expected[peer] and peer != rank]
        assert view["seen_pipes"] == {peer: views[peer]["own_pipe"] for peer in peers}
        assert view["ip_addresses"][rank] == view["ip_address"]
        assert view["environment"] == (str(rank), str(ranks))


@pytest.mark.parametrize("hosts", [2, 3])
def test_each_host_is_a_network_of_its_own(run_bare, why_no_hosts, hosts):
    if why_no_hosts is not None:
        pytest.skip(why_no_hosts)
    views = run_bare(rank_functions.tell_everything, 3, "hosts", hosts=hosts)
    assert len(set(views[0]["hosts"])) == hosts
    network_of = {view["hosts"][view["rank"]]: view["network"] for view in views}
    assert len(set(network_of.values())) == hosts
    assert os.stat("/proc/self/ns/net").st_ino not in network_of.values()
    for view in views:
        assert view["network"] == network_of[view["hosts"][view["rank"]]]
        assert view["ucx"]["UCX_TLS"] == "tcp,self" and view["ucx"]["UCX_NET_DEVICES"] == view["interface"]


def test_every_rank_reaches_every_rank_at_its_ip_address(run_bare, world_kind):
    assert run_bare(rank_functions.talk_over_tcp, 4, world_kind) == [[0, 1, 2, 3]] * 4


def test_a_rank_has_a_core_of_its_own_where_there_are_enough(run_bare):
    usable = sorted(os.sched_getaffinity(0))
    views = run_bare(rank_functions.tell_everything, len(usable))
    assert [view["affinity"] for view in views] == [{core} for core in usable]
    assert [view["core"] for view in views] == usable


def test_no_rank_is_pinned_where_there_are_too_few_cores_or_on_request(run_bare):
    usable = os.sched_getaffinity(0)
    for view in [
        *run_bare(rank_functions.tell_everything, len(usable) + 1),
        *run_bare(rank_functions.tell_everything, 1, pin=False),
    ]:
        assert view["affinity"] == usable and view["core"] is None
    with pytest.raises(ConfigError, match="--no-pin"):
        run_bare(rank_functions.tell_everything, len(usable) + 1, pin=True)


def test_umem_host_divides_a_machine_into_hosts(run_bare, monkeypatch):
    monkeypatch.setenv("UMEM_HOST", "blue")
    [view] = run_bare(rank_functions.tell_everything, 1)
    assert view["hosts"][0].endswith("/blue")


# --- waits


def test_an_exchange_that_one_rank_misses_times_out_and_names_it(run_bare, world_kind):
    run_bare(rank_functions.wait_for_one_that_never_comes, 3, world_kind)


def test_a_get_times_out_and_the_world_goes_on(run_bare, world_kind):
    assert (
        run_bare(rank_functions.wait_for_a_key_that_nobody_sets, 2, world_kind) == [[b"still works"] * 2] * 2
    )


@pytest.mark.parametrize(("how", "text"), [("killed", "SIGKILL"), ("gone", "exit code 0")])
def test_an_exchange_with_a_dead_rank_is_rank_lost_at_once(run_bare, world_kind, how, text):
    results = run_bare(
        rank_functions.die_while_others_wait, 3, world_kind, args=(how,), on_failure="continue", timeout_s=60
    )[::2]
    assert [result[::2] for result in results] == [(1, True)] * 2
    assert all(text in result[1] for result in results)


def test_a_rank_holds_no_end_of_anothers_stream(run_bare):
    """An end that is held twice never closes: later ranks would keep those of the earlier ones open."""
    counts = run_bare(rank_functions.count_sockets, 4)
    assert len(set(counts)) == 1, counts
