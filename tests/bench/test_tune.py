"""Thresholds of teams: found, kept for this machine, and the same at all members."""

from __future__ import annotations

import json

import numpy as np
import pytest

import umem
from umem.bench import tune
from umem.cli import app
from umem.collectives import mapped, thresholds
from umem.collectives.mapped import words_at
from umem.collectives.thresholds import Thresholds
from umem.files import cached
from umem.kernels.collective import layout

FOUND = Thresholds(64 << 10, 8 << 10, 4 << 10, 1 << 20)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(cached, "folder", lambda name, ready: tmp_path)


@pytest.mark.parametrize(
    ("ratios", "index"),
    [
        ([2.0, 1.5, 0.9, 0.5], 2),
        ([2.0, 1.5, 1.1], 3),
        ([0.9, 0.5], 0),
        ([2.0, 0.5, 1.01, 0.5], 1),  # what one size has too much, the others outweigh
        ([2.0, 0.99, 1.5, 0.5], 3),
    ],
)
def test_the_second_way_is_taken_from_where_it_costs_least(ratios, index):
    assert tune.first_from(ratios) == index


def test_what_is_kept_is_found_again_and_forgotten():
    assert thresholds.of_this_machine() == thresholds.defaults()
    path = thresholds.keep(FOUND)
    assert thresholds.of_this_machine() == FOUND == Thresholds.parse(FOUND.text())
    assert path.exists()
    thresholds.forget()
    assert thresholds.of_this_machine() == thresholds.defaults()


@pytest.mark.parametrize(
    "damage",
    [
        lambda document: "",
        lambda document: json.dumps([]),
        lambda document: json.dumps({**document, "machine": "another"}),
        lambda document: json.dumps({**document, "thresholds": {"half": 64}}),
        lambda document: json.dumps({**document, "thresholds": {**document["thresholds"], "eager": 1 << 30}}),
    ],
)
def test_what_is_damaged_or_of_another_machine_is_as_nothing(damage):
    path = thresholds.keep(FOUND)
    path.write_text(damage(json.loads(path.read_text())))
    assert thresholds.of_this_machine() == thresholds.defaults()


def check_members(space):
    """The second rank has found nothing."""
    mapped.of_this_machine = (lambda: FOUND) if space.rank == 0 else thresholds.defaults
    team = umem.Team(space)
    words = words_at(team.address, layout.TEAM_WORDS)
    found = [int(words[word]) for word in (layout.TEAM_HALF_BYTES, layout.TEAM_EAGER_BYTES)]
    found += [int(words[word]) for word in (layout.TEAM_TWO_SHOT_BYTES, layout.TEAM_STREAM_BYTES)]
    assert found == [FOUND.half, FOUND.eager, FOUND.two_shot, FOUND.stream]
    part = np.full(100_000, space.rank + 1.0)
    team.all_reduce(part)
    assert (part == 3).all()
    src, dst = (
        space.empty(300_003, "float64").numpy()[skipped:] for skipped in (1, 3)
    )  # aligned differently
    src[:], dst[:] = np.arange(len(src)) + space.rank, 0
    team.all_reduce(dst, src[: len(dst)])  # around the caches
    assert (dst == 2 * np.arange(len(dst)) + 1).all()
    team.barrier()
    team.close()


def test_all_members_take_those_of_the_first():
    umem.launch(check_members, 2, segment="64M")


def test_tuning_measures_prints_and_keeps(monkeypatch, capsys):
    monkeypatch.setattr("umem.bench.command.prepare", lambda world: None)
    for name, few in {
        "EAGER_SIZES": (1 << 10,),
        "STREAM_SIZES": (1 << 20,),
        "NUM_PAIRS": 1,
        "SAMPLES": 5,
    }.items():
        monkeypatch.setattr(tune, name, few)
    monkeypatch.setattr(tune, "STAGED_BYTES", 1 << 18)
    assert app.main(["bench", "--tune"]) == 0
    out = capsys.readouterr().out
    assert "direct / staged: 1K" in out
    assert "kept in" in out
    assert thresholds.of_this_machine().eager in (0, 1 << 10)
    assert thresholds.of_this_machine().two_shot == thresholds.defaults().two_shot


def test_ranks_that_do_not_map_each_other_have_nothing_to_tune():
    assert app.main(["bench", "--tune", "--world", "hosts"]) == 2
