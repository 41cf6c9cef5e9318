"""A world's description is checked where it is made, and the error says what would do."""

from __future__ import annotations

import pytest

from umem.errors import ConfigError, UnknownName
from umem.world import WorldSpec
from umem.world.spec import MAX_RANKS, ucx_environment


def test_sizes_are_read_as_people_write_them():
    spec = WorldSpec.of(2, segment="2G", host_segment="64M")
    assert (spec.segment_bytes, spec.host_segment_bytes) == (2 << 30, 64 << 20)


def test_unset_values_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("UMEM_SEGMENT", "3G")
    monkeypatch.setenv("UMEM_TIMEOUT_S", "7")
    spec = WorldSpec.of(2)
    assert (spec.segment_bytes, spec.timeout_s) == (3 << 30, 7.0)
    assert WorldSpec.of(2, segment="1G", timeout_s=9).segment_bytes == 1 << 30


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"ranks": 0}, "0 ranks"),
        ({"ranks": MAX_RANKS + 1}, f"{MAX_RANKS}"),
        ({"ranks": "2"}, "not a whole number"),
        ({"segment": "2X"}, "2X"),
        ({"segment": -1}, "-1"),
        ({"ranks": 2, "hosts": 2}, "use world 'hosts'"),
        ({"ranks": 2, "world": "hosts", "hosts": 3}, "3 hosts for 2 ranks"),
        ({"timeout_s": 0.0}, "above 0"),
        ({"striped_fraction": 1.5}, "1.5"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(arguments, text):
    with pytest.raises(ConfigError, match=text):
        WorldSpec.of(**arguments)


@pytest.mark.parametrize("name", ["world", "on_failure"])
def test_an_unknown_name_comes_with_the_known_ones(name):
    with pytest.raises(UnknownName) as caught:
        WorldSpec.of(**{name: "nonsense"})
    assert caught.value.name == "nonsense" and len(caught.value.known) >= 2


def test_a_hosts_world_has_two_hosts_unless_told_otherwise():
    assert [WorldSpec.of(ranks, "hosts").num_hosts for ranks in (1, 2, 8)] == [1, 2, 2]
    assert WorldSpec.of(8, "hosts", hosts=4).num_hosts == 4


@pytest.mark.parametrize(("ranks", "hosts"), [(2, 2), (5, 2), (8, 3), (8, 8)])
def test_neighbours_share_a_host_and_no_host_is_empty(ranks, hosts):
    spec = WorldSpec.of(ranks, "hosts", hosts=hosts)
    indices = [spec.host_index(rank) for rank in range(ranks)]
    assert indices == sorted(indices) and set(indices) == set(range(hosts))


def test_each_kind_keeps_ucx_on_its_own_transports():
    assert ucx_environment("mapped", "lo")["UCX_TLS"] == "posix,self"
    assert ucx_environment("no-peer-access", "lo")["UCX_TLS"] == "posix,self"
    hosts = ucx_environment("hosts", "eth0")
    assert (hosts["UCX_TLS"], hosts["UCX_NET_DEVICES"]) == ("tcp,self", "eth0")
