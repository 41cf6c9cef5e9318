"""Bars: the file is well formed, every bar has its case, and sampling goes on until a bar is decided."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from umem.bench import bars
from umem.bench.bars import Alternative, Bar
from umem.bench.cases import registry
from umem.bench.harness.driver import Bench
from umem.bench.harness.side import Measured, Options, Point
from umem.bench.harness.stats import Limit, Outcome
from umem.errors import ConfigError, RankLost, UnknownName, Waived

from .examples import FakeSide

POINT = Point(8)
BAR = Bar("x", "foundation", "what", "fake", POINT, "mapped", "a", "b", Limit(1.1, at_most=True))

# Issue 2's table: a row may be several bars.
PROMISED = """
line_ping_pong chase fetch_add message_8_posix message_8_tcp message_bandwidth_posix copy alloc_one alloc_two
agent_idle startup_cold startup_warm startup_run python_load import_umem import_modules verdict
"""
AGENT = {
    f"agent_{operation}_{statistic}_{world}"
    for operation in ("get", "put", "fetch_add", "alloc")
    for statistic in ("p50", "p99")
    for world in ("no_peer_access", "hosts")
}
# Issue 3's table.
TORCH = """
torch_raw_mlp torch_raw_transformer torch_empty_pool torch_empty_inactive torch_training_mlp
torch_training_transformer torch_offload_mlp torch_offload_transformer torch_wire
"""
# Issue 4's table, and a hit from Python.
COHERENCE = """
hit_load hit_load_siblings hit_from_python hit_store hit_fetch_add line_read_128 line_read_4096 line_write_128
line_write_4096 miss_read miss_write hand_over hand_over_third miss_by_flits zipf_no_peer_access zipf_hosts
"""

# Issue 14's table: against each MPI, the floor, and Open MPI with more ranks than cores.
MPIS = ("mpi", "mpich", "impi")
AGAINST_EACH_MPI = """
barrier all_reduce_8 all_reduce_256K all_reduce_256K_in_place all_reduce_64M all_reduce_64M_in_place all_gather_64M
all_to_all_64M reduce_scatter_64M
"""
COLLECTIVES = {f"{bar}_{mpi}" for bar in AGAINST_EACH_MPI.split() for mpi in MPIS} | {
    "barrier_line",
    "moe_0",
    "moe_1",
    "all_reduce_8_line",
    "all_reduce_64M_streaming_0",
    "all_reduce_64M_streaming_1",
    *(f"all_reduce_{size}_message_{way}" for size in ("8", "256K", "16M") for way in ("posix", "tcp")),
    *(f"all_reduce_{size}_{ranks}_ranks" for size in ("8", "256K", "64M") for ranks in (4, 8)),
}


DISTRIBUTED = "torch_all_reduce torch_ddp_small torch_ddp_4M torch_fsdp_small torch_fsdp_4M"


@pytest.mark.parametrize(
    ("group", "promised"),
    [
        ("foundation", set(PROMISED.split()) | AGENT),
        ("torch", set(TORCH.split())),
        ("coherence", set(COHERENCE.split())),
        ("collectives", COLLECTIVES),
        ("distributed", set(DISTRIBUTED.split())),
        ("embedding", {"embedding_bag_c", "embedding_bag_torch"}),
    ],
)
def test_every_promise_of_a_group_has_a_bar(group, promised):
    assert {bar.id for bar in bars.select(group, bars.read())} == promised


@pytest.mark.parametrize("bar", bars.read(), ids=lambda bar: bar.id)
def test_every_bar_names_sides_of_a_case(bar):
    case = registry.find(bar.case)()
    options = Options(world=bar.world, ranks=bar.ranks, peers=bar.peers)
    assert bar.world in case.worlds
    bench = Bench(options)
    names = [side.name for side in case.sides(bench, bar.point)]
    assert len(names) == len(set(names)), "sides of a point share a name"
    assert bar.side in names
    assert bar.against in names
    if bar.alternative:
        assert bar.alternative.against in names


@pytest.mark.parametrize("group", sorted({bar.group for bar in bars.read()}))
def test_a_group_ends_within_12_minutes_whatever_it_finds(group):
    assert bars.worst_case_s(bars.select(group, bars.read())) <= bars.GROUP_LIMIT_S == 720


def test_bars_of_one_setting_share_their_time():
    together = [replace(BAR, id="1", time_limit_s=20), replace(BAR, id="2", round_s=3)]
    apart = replace(BAR, id="3", ranks=4, time_limit_s=0, round_s=90)
    assert bars.worst_case_s([*together, apart]) == 2 * bars.SETTING_OVERHEAD_S + 23 + 90


ENTRY = """
[[bar]]
id = "{side}_{world}"
each = { side = ["get", "put"], world = ["hosts", "no-peer-access"] }
group = "g"
what = "{side} in {world}"
case = "c"
point = "8"
world = "{world}"
side = "{side}"
against = "b"
at_most = 1
"""


def test_an_entry_declares_a_bar_for_each_combination(tmp_path):
    file = tmp_path / "bars.toml"
    file.write_text(ENTRY)
    found = bars.read(file)
    assert [bar.id for bar in found] == [
        "get_hosts",
        "get_no_peer_access",
        "put_hosts",
        "put_no_peer_access",
    ]
    assert [(bar.side, bar.world, bar.what) for bar in found[1:2]] == [
        ("get", "no-peer-access", "get in no-peer-access")
    ]


def test_a_name_that_each_lacks_is_refused(tmp_path):
    file = tmp_path / "bars.toml"
    file.write_text(ENTRY.replace("in {world}", "in {place}"))
    with pytest.raises(ConfigError, match="'place' is not in its `each`"):
        bars.read(file)


def test_groups_are_selected_by_name():
    known = [replace(BAR, id="1"), replace(BAR, id="2", group="kv")]
    assert [bar.id for bar in bars.select("kv", known)] == ["2"]
    assert bars.select("all", known) == known
    with pytest.raises(UnknownName, match="foundation, kv, all"):
        bars.select("nonsense", known)


@pytest.mark.parametrize(
    "broken",
    [
        'id = "x"',
        'id = "x"\ngroup = "g"\ncase = "c"\npoint = "8"\nworld = "mapped"\nside = "a"\nagainst = "b"',
        'id = "x"\nat_most = 1\nat_least = 2',
        'id = "x"\nat_most = 1\nnonsense = 2\npoint = "8"',
    ],
)
def test_a_malformed_bar_is_refused_by_name(tmp_path, broken):
    file = tmp_path / "bars.toml"
    file.write_text(f"[[bar]]\n{broken}\n")
    with pytest.raises(ConfigError, match="x"):
        bars.read(file)


def measured(mine, theirs, other=None):
    blocks = {"a": [np.array([value]) for value in mine], "b": [np.array([value]) for value in theirs]}
    if other is not None:
        blocks["c"] = [np.array([value]) for value in other]
    return Measured(POINT, blocks)


def rng():
    return np.random.default_rng(1)


def test_a_bar_of_times_divides_the_sides_time_by_the_others():
    result = bars.evaluate(BAR, measured([1.0] * 8, [2.0] * 8), rng())
    assert (result.ratio, result.outcome) == (0.5, Outcome.PASS)


def test_a_bar_of_rates_divides_the_other_way():
    bar = replace(BAR, compare="rate", limit=Limit(0.95, at_most=False))
    result = bars.evaluate(bar, measured([1.0] * 8, [2.0] * 8), rng())
    assert (result.ratio, result.outcome) == (2.0, Outcome.PASS)


def test_statistics_of_the_two_sides_may_differ():
    bar = replace(BAR, statistic="p99", limit=Limit(3, at_most=True))
    mine = [np.array([1.0] * 50 + [100.0] * 50)] * 8
    blocks = Measured(POINT, {"a": mine, "b": [np.array([10.0])] * 8})
    assert bars.evaluate(bar, blocks, rng()).ratio == 10.0


@pytest.mark.parametrize("side", ["a", "b"])
def test_wrong_data_of_either_side_fails_a_bar_however_fast_it_was(side):
    found = measured([0.1] * 8, [2.0] * 8)
    found.errors = {side: 1}
    result = bars.evaluate(BAR, found, rng())
    assert result.outcome is Outcome.FAIL
    assert "1 errors" in result.reason


def test_the_alternative_counts_only_where_the_reference_reaches_it():
    alternative = Alternative("c", Limit(0.97, at_most=False), from_fraction=0.9)
    bar = replace(BAR, compare="rate", limit=Limit(1.15, at_most=False), alternative=alternative)
    streams = bars.evaluate(bar, measured([1.0] * 8, [1.0] * 8, [0.98] * 8), rng())
    assert (streams.against, streams.outcome) == ("c", Outcome.PASS)
    plain = bars.evaluate(bar, measured([1.0] * 8, [1.0] * 8, [0.7] * 8), rng())
    assert (plain.against, plain.outcome) == ("b", Outcome.FAIL)


class FakeCase:
    """A case whose sides are given."""

    waive = None

    def __init__(self, *sides):
        self.made = list(sides)

    def __call__(self):
        return self

    def waived(self, options):
        return self.waive

    def sides(self, bench, point):
        return self.made


@pytest.fixture
def run_fake(monkeypatch):
    def run(bar, *sides, waive=None):
        case = FakeCase(*sides)
        case.waive = waive
        monkeypatch.setattr(registry, "find", lambda key: case)
        (result,) = bars.run([bar], Options())
        assert not any(side.is_open for side in sides)
        return result

    return run


def test_a_clear_ratio_is_decided_at_the_first_look(run_fake):
    result = run_fake(BAR, FakeSide("a", [1.0]), FakeSide("b", [1.0]))
    assert (result.outcome, result.num_pairs) == (Outcome.PASS, 8)


def test_a_ratio_at_the_bar_is_sampled_to_the_end_and_then_inconclusive(run_fake):
    result = run_fake(replace(BAR, max_pairs=40), FakeSide("a", [1.0, 1.2]), FakeSide("b", [1.0]))
    assert (result.outcome, result.num_pairs) == (Outcome.INCONCLUSIVE, 40)


def test_time_ends_the_sampling(run_fake):
    bar = replace(BAR, time_limit_s=0.0)
    result = run_fake(bar, FakeSide("a", [1.0, 1.2]), FakeSide("b", [1.0]))
    assert result.num_pairs == 1


def test_a_bar_that_rests_on_few_pairs_says_so(run_fake):
    result = run_fake(replace(BAR, max_pairs=3), FakeSide("a", [1.0]), FakeSide("b", [1.0]))
    assert (result.outcome, result.reason) == (Outcome.PASS, "rests on few pairs: 3")


def test_a_missing_peer_waives_the_bar_and_says_why(run_fake):
    result = run_fake(BAR, FakeSide("a", [1.0]), FakeSide("b", [1.0], failure=Waived("no b here")))
    assert (result.outcome, result.reason) == (Outcome.WAIVED, "no b here")


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_side_that_fails_to_open_fails_the_bar(run_fake, name):
    sides = [FakeSide(each, [1.0], failure=RankLost(1) if each == name else None) for each in "ab"]
    result = run_fake(BAR, *sides)
    assert (result.outcome, result.reason) == (Outcome.FAIL, "RankLost: rank 1 is dead")


def test_a_case_that_cannot_run_waives_the_bar(run_fake):
    result = run_fake(BAR, FakeSide("a", [1.0]), FakeSide("b", [1.0]), waive="too small")
    assert (result.outcome, result.reason) == (Outcome.WAIVED, "too small")


def test_a_failing_side_fails_the_bar(run_fake):
    class Broken(FakeSide):
        def block(self, num_samples):
            raise ConfigError("it broke")

    result = run_fake(BAR, Broken("a", [1.0]), FakeSide("b", [1.0]))
    assert result.outcome is Outcome.FAIL
    assert "it broke" in result.reason


def test_the_line_has_id_ratio_interval_bar_and_outcome():
    result = bars.evaluate(BAR, measured([1.0] * 8, [2.0] * 8), rng())
    assert result.line().split() == ["x", "0.500", "[0.500,", "0.500]", "<=", "1.1", "pass"]
    assert json.loads(json.dumps(result.as_dict()))["outcome"] == "pass"
