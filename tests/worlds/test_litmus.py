"""Litmus tests on real memory: the shipped ones pass in every world, and what is forbidden is seen where it happens."""

from __future__ import annotations

import ctypes
import itertools
import re

import pytest

import umem
from umem import limits
from umem.cli import app
from umem.kernels.coherent import layout as words
from umem.verify.litmus import parse
from umem.verify.litmus.command import FULL_INSTANCES, Options, play
from umem.verify.litmus.judge import Evidence, Result
from umem.verify.litmus.lanes import INSTANCES
from umem.verify.litmus.rounds import CACHES, Rounds
from umem.verify.litmus.shipped import shipped
from umem.world.spec import MAPPED
from umem.world.waiting import Deadline, until

TESTS = shipped()
needs_two_cores = pytest.mark.skipif(
    len(limits.usable_cores()) < 2, reason="lanes on one core do not overlap within an instance"
)

# What every operation does, told by the registers: no chance is left.
EVERY_OPERATION = """
test operations
start x = 10, y = -1 beside x, z = 0
rank 0: a = load x ; store x 0x7fffffffffffffff ; b = exchange x 5 ; c = fetch_add x -8 ; d = load_acquire x
rank 1: fence ; e = compare_swap y 0 3 ; f = compare_swap y -1 4 ; store_release z 9 ; g = load y ; h = load z
forbidden a = 0
forbidden x = 0 and y = 0 and z = 0
"""


def wrong(found):
    return {
        evidence.litmus.name: (evidence.result, evidence.ends)
        for evidence in found
        if evidence.result is not Result.PASS
    }


@pytest.mark.parametrize(
    ("world", "cache"),
    [
        ("mapped", "none"),
        ("no-peer-access", "none"),
        pytest.param("hosts", "none", marks=pytest.mark.soak),
        *(
            pytest.param(world, cache, marks=pytest.mark.soak)
            for world in FULL_INSTANCES
            for cache in ("back", "through")
        ),
    ],
)
def test_every_operation_does_what_its_name_says(world, cache, why_no_hosts):
    if world == "hosts" and why_no_hosts:
        pytest.skip(why_no_hosts)
    (found,) = play([parse(EVERY_OPERATION)], Options(world, cache=cache, instances=1))
    end = (10, (1 << 63) - 1, 5, -3, -1, -1, 4, 9, -3, 4, 9)
    assert set(found.ends) == {end}
    assert found.num_instances % INSTANCES == 0
    assert found.result is Result.INCONCLUSIVE


def test_the_shipped_ones_pass():
    found = play(TESTS, Options(ranks=4, instances=2000))
    assert not wrong(found)
    assert all(evidence.num_instances >= 2000 for evidence in found)


CROWDED = [
    ("mapped", 4),
    ("mapped", 8),
    ("no-peer-access", 4),
    ("hosts", 4),
]  # more ranks than many machines' cores
OTHERS = [("mapped", "mesi", None), ("mapped", "snoop", None), ("no-peer-access", "mesi", None)]
SMALL = [("mapped", None, "4K"), ("no-peer-access", None, "4K")]  # 32 lines, where a round uses hundreds


@pytest.mark.soak
@pytest.mark.parametrize(
    ("world", "ranks", "cache"),
    [(world, None, cache) for world in FULL_INSTANCES for cache in CACHES]
    + [(*crowd, "back") for crowd in CROWDED],
)
def test_the_shipped_ones_pass_many_times(world, ranks, cache, soak_factor, why_no_hosts):
    if world == "hosts" and why_no_hosts:
        pytest.skip(why_no_hosts)
    full = FULL_INSTANCES[world] if ranks is None else FULL_INSTANCES["hosts"]
    # A store through to a home that is not mapped takes a message each way, and so do most loads after it.
    part = 100 if cache == "through" and world != MAPPED else 10
    instances = min(full, full // part * soak_factor)
    assert not wrong(play(TESTS, Options(world, ranks, cache, instances, seed=soak_factor)))


@pytest.mark.soak
@pytest.mark.parametrize(("world", "protocol", "line_cache"), OTHERS + SMALL)
def test_the_shipped_ones_pass_under_other_protocols_and_where_copies_must_go(
    world, protocol, line_cache, soak_factor
):
    # By messages a hundred times as long.
    instances = (1000 if world == MAPPED else 250) * soak_factor
    options = Options(world, 4, "back", instances, soak_factor, line_cache=line_cache, protocol=protocol)
    assert not wrong(play(TESTS, options))


def play_without_invalidation(space, tests, cache):
    """In every rank: the ends of each test where the protocol's table lets others keep their copies."""
    rows = (ctypes.c_int64 * words.NUM_ROWS).from_address(space.cache.address + 8 * words.CACHE_ROWS)
    for index in range(words.NUM_ROWS):
        rows[index] &= ~(words.INVALIDATE | words.INVALIDATE_ALL)
    space.barrier()
    seen = []
    for litmus in tests:
        rounds = Rounds(space, litmus, cache, seed=1)
        seen.append(rounds.play(4096))
        rounds.close()
    return seen


@pytest.mark.soak
@pytest.mark.parametrize(("cache", "names"), [("back", ("MP", "SB")), ("through", ("CoWR", "SB"))])
def test_a_protocol_that_invalidates_nobody_is_found(cache, names):
    tests = [litmus for litmus in TESTS if litmus.name in names]
    seen = umem.launch(play_without_invalidation, segment="64M", args=(tests, cache), timeout_s=20)
    found = [Evidence(litmus, 2, ends) for litmus, ends in zip(tests, seen, strict=True)]
    assert [evidence.result for evidence in found] == [Result.FAIL, Result.FAIL]
    control = play(tests, Options(cache=cache, instances=4096))
    assert [evidence.result for evidence in control] == [Result.PASS, Result.PASS]


@needs_two_cores
def test_an_order_that_the_machine_does_not_keep_by_itself_is_missed_when_it_is_left_out(tmp_path, capsys):
    (ordered,) = [litmus for litmus in TESTS if litmus.name == "SB"]
    text = "test SB\nstart x = 0, y = 0\nrank 0: store x 1 ; a = load y\nrank 1: store y 1 ; b = load x\n"
    text += f"forbidden {ordered.forbidden[0]}\n"
    file = tmp_path / "sb.litmus"
    file.write_text(text)
    # The two ranks must run at the same time for it, and on a busy machine they seldom do: as long as that takes.
    seeds = itertools.count(1)

    def look() -> bool | None:
        arguments = ["verify", "litmus", str(file), "--instances", "20000", "--seed", str(next(seeds))]
        return True if app.main(arguments) == 1 else None

    assert until(look, Deadline(60))
    printed = capsys.readouterr().out
    assert re.search(r"SB +2 .* fail ", printed)
    assert re.search(r"SB: forbidden, and seen [\d,]+ times: a = 0 and b = 0", printed)


def test_the_command_says_what_was_played_and_what_was_not(tmp_path, capsys):
    file = tmp_path / "three.litmus"
    file.write_text(
        "test three\nstart x = 0\nrank 0: store x 1\nrank 1: store x 1\nrank 2: store x 1\nforbidden x = 0"
    )
    arguments = ["verify", "litmus", str(file), "--instances", "1"]
    assert app.main([*arguments, "-n", "2"]) == 3
    printed = capsys.readouterr().out
    assert re.search(r"three +2 .*needs 3 ranks .*waived", printed)
    assert "nothing was played: every test needs more than 2 ranks" in printed
    assert app.main([*arguments, "--world", MAPPED]) == 3
    assert re.search(r"three +3 .*x: 1: 100.0% .*inconclusive", capsys.readouterr().out)


def test_the_command_searches_the_model(tmp_path, capsys):
    assert app.main(["verify", "litmus", "--model"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"MP +weak +\d+ +3 +exhausted", printed)
    file = tmp_path / "mp.litmus"
    file.write_text(
        "test MP\nstart x = 0, y = 0\nrank 0: store x 1 ; store y 1\nrank 1: a = load y ; b = load x\n"
        "forbidden a = 1 and b = 0\nallowed a = 1 and b = 1"
    )
    assert app.main(["verify", "litmus", str(file), "--model"]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"MP +sequential +\d+ +3 +exhausted", printed)
    assert re.search(r"MP +weak .*forbidden: a = 1 and b = 0", printed)


def test_a_file_that_is_no_test_is_refused(tmp_path, capsys):
    file = tmp_path / "bad.litmus"
    file.write_text("test bad\nstart x = 0\nrank 0: put x 1\n")
    assert app.main(["verify", "litmus", str(file)]) == 2
    assert f"{file}:3: expected an operation" in capsys.readouterr().err
