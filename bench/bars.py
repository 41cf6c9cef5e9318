"""Bars: ratios that must hold inside one run, declared in bars.toml.

Bars of the same case, point and world are measured together, their sides in turns, until each is
decided or its pairs or time are used up.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from umem.errors import ConfigError, UmemError, UnknownName, Waived

from .cases import registry
from .harness.driver import Bench
from .harness.side import Measured, Options, Point, Side
from .harness.stats import MIN_PAIRS, Interval, Limit, Outcome, Samples, judge, next_look, ratio_interval
from .harness.timing import Missing, close_sides, open_sides, run_rounds, warm_up

FILE = Path(__file__).with_name("bars.toml")
_ALL = "all"
GROUP_LIMIT_S = 720.0
SETTING_OVERHEAD_S = 6.0  # start of the ranks, their memory, one block a side to warm up

STATISTICS: dict[str, Callable[[Samples], float]] = {
    "p50": lambda samples: float(np.median(samples)),
    "p99": lambda samples: float(np.percentile(samples, 99)),
}


@dataclass(frozen=True)
class Alternative:
    """Another reference, used where the first one reaches `from_fraction` of its speed."""

    against: str
    limit: Limit
    from_fraction: float


@dataclass(frozen=True)
class Bar:
    """One ratio that must hold: `side` against `against`, two sides of one point of a case.

    `compare` "time": the side's time over the other's; "rate": the other's time over the side's, which
    is the ratio of their rates. A block counts with its `statistic`, the other's with
    `against_statistic`.
    """

    id: str
    group: str
    what: str
    case: str
    point: Point
    world: str
    side: str
    against: str
    limit: Limit
    compare: str = "time"
    statistic: str = "p50"
    against_statistic: str = "p50"
    ranks: int = 2
    samples: int = 20
    min_pairs: int = 8
    max_pairs: int = 128
    warms_up: bool = True
    time_limit_s: float = 15.0
    round_s: float = 1.0
    alternative: Alternative | None = None

    @property
    def setting(self) -> tuple[str, Point, str, int]:
        """The setting of the bar; bars of one setting are measured together."""
        return (self.case, self.point, self.world, self.ranks)

    @property
    def peers(self) -> tuple[str, ...]:
        """Peers that the bar needs."""
        from .harness.side import PEERS

        return tuple(peer for peer in PEERS if peer == self.against)


@dataclass(frozen=True)
class Result:
    """The outcome of a bar, with its figures. `reason`: of a failure or a waiver, or how few pairs it rests on."""

    id: str
    group: str
    what: str
    ratio: float | None
    low: float | None
    high: float | None
    bar: str
    outcome: Outcome
    against: str
    num_pairs: int
    reason: str = ""

    def line(self) -> str:
        """The result as a line of columns: id, ratio, interval, bar, outcome."""
        if self.ratio is None:
            figures = f"{'-':>8} {'-':>18}"
        else:
            figures = f"{self.ratio:8.3f} {f'[{self.low:.3f}, {self.high:.3f}]':>18}"
        return f"{self.id:<30} {figures} {self.bar:>8} {self.outcome}"

    def as_dict(self) -> dict[str, Any]:
        """The result as a dict for JSON."""
        return {**asdict(self), "outcome": str(self.outcome)}


def read(file: Path = FILE) -> list[Bar]:
    """The bars of bars.toml, in its order. Raises ConfigError where a bar is not well formed."""
    document = tomllib.loads(file.read_text())
    bars = [_parse(one) for entry in document["bar"] for one in _each(entry)]
    twice = {bar.id for bar in bars if sum(other.id == bar.id for other in bars) > 1}
    if twice:
        raise ConfigError(f"{file.name}: bars with one id: {', '.join(sorted(twice))}")
    return bars


def select(name: str, bars: Sequence[Bar]) -> list[Bar]:
    """Bars of the group `name`, the one bar of that id, or all. Raises UnknownName."""
    chosen = [bar for bar in bars if name in (_ALL, bar.group, bar.id)]
    if not chosen:
        raise UnknownName("group of bars", name, [*dict.fromkeys(bar.group for bar in bars), _ALL])
    return chosen


def worst_case_s(bars: Iterable[Bar]) -> float:
    """Seconds that `bars` take if no bar is decided before its time is up."""
    return sum(
        SETTING_OVERHEAD_S + max(bar.time_limit_s for bar in together) + max(bar.round_s for bar in together)
        for together in _settings(bars)
    )


def _settings(bars: Iterable[Bar]) -> list[list[Bar]]:
    """Bars that are measured together, in the order of the first of each."""
    settings: dict[tuple[object, ...], list[Bar]] = {}
    for bar in bars:
        settings.setdefault(bar.setting, []).append(bar)
    return list(settings.values())


def _each(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The bars of one entry: one for each combination of the values in its `each`."""
    each = entry.get("each", {})
    for values in product(*each.values()):
        words = dict(zip(each, values, strict=True))
        one = {name: value for name, value in entry.items() if name != "each"}
        try:
            one |= {name: value.format(**words) for name, value in one.items() if isinstance(value, str)}
        except KeyError as error:
            raise ConfigError(f"bars.toml: {entry.get('id')}: {error} is not in its `each`") from error
        if "id" in one:
            one["id"] = one["id"].replace("-", "_")
        yield one


def _parse(entry: dict[str, Any]) -> Bar:
    values = dict(entry)
    name = values.get("id", "a bar without an id")
    try:
        limit = _limit(values)
        other = values.pop("alternative", None)
        alternative = None
        if other is not None:
            other = dict(other)
            other_limit = _limit(other)
            alternative = Alternative(limit=other_limit, **other)
        point = Point.parse(str(values.pop("point")))
        bar = Bar(limit=limit, alternative=alternative, point=point, **values)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"bars.toml: {name}: {error}") from error
    for what, value, known in (
        ("comparison", bar.compare, ("time", "rate")),
        ("statistic", bar.statistic, tuple(STATISTICS)),
        ("statistic", bar.against_statistic, tuple(STATISTICS)),
    ):
        if value not in known:
            raise UnknownName(f"{what} of bar {name}", value, known)
    return bar


def _limit(values: dict[str, Any]) -> Limit:
    """Take at_most or at_least out of `values`."""
    at_most, at_least = values.pop("at_most", None), values.pop("at_least", None)
    if (at_most is None) == (at_least is None):
        raise ConfigError(f"bars.toml: {values.get('id', values)}: needs one of at_most and at_least")
    return Limit(float(at_most if at_least is None else at_least), at_least is None)


def run(bars: Iterable[Bar], options: Options) -> Iterator[Result]:
    """Measure bars; yields a result a bar as soon as its setting is done."""
    for together in _settings(bars):
        first = together[0]
        peers = tuple(dict.fromkeys(peer for bar in together for peer in bar.peers))
        with Bench(replace(options, world=first.world, ranks=first.ranks, peers=peers)) as bench:
            yield from _run_together(bench, together)


def _run_together(bench: Bench, bars: Sequence[Bar]) -> list[Result]:
    """Measure bars of one setting."""
    case = registry.find(bars[0].case)()
    reason = case.waived(bench.options)
    if reason is not None:
        return [_without(bar, Outcome.WAIVED, reason) for bar in bars]
    opened: list[Side] = []
    try:
        opened, missing = open_sides(_needed(bench, bars))
        runnable, results = _split(bars, {side.name for side in opened}, missing)
        if runnable:
            results |= _sample(bench, runnable, opened)
    except Waived as error:
        return [_without(bar, Outcome.WAIVED, str(error)) for bar in bars]
    except UmemError as error:
        return [_without(bar, Outcome.FAIL, f"{type(error).__name__}: {error}") for bar in bars]
    finally:
        close_sides(opened)
    return [results[bar.id] for bar in bars]


def _needed(bench: Bench, bars: Sequence[Bar]) -> list[Side]:
    """The sides of the case that these bars compare."""
    names = {bar.side for bar in bars} | {bar.against for bar in bars}
    names |= {bar.alternative.against for bar in bars if bar.alternative}
    case = registry.find(bars[0].case)()
    return [side for side in case.sides(bench, bars[0].point) if side.name in names]


def _split(
    bars: Sequence[Bar], opened: set[str], missing: Sequence[Missing]
) -> tuple[list[Bar], dict[str, Result]]:
    """Bars whose sides are all open, and results for the others."""
    lacks = {lack.side.name: lack for lack in missing}
    runnable: list[Bar] = []
    results: dict[str, Result] = {}
    for bar in bars:
        lacking = [name for name in (bar.side, bar.against) if name not in opened]
        if not lacking:
            runnable.append(bar)
        elif lacking[0] in lacks:
            results[bar.id] = _missing(bar, lacks[lacking[0]])
        else:
            reason = f"case {bar.case} has no side {lacking[0]} here"
            results[bar.id] = _without(bar, Outcome.WAIVED, reason)
    return runnable, results


def _missing(bar: Bar, lack: Missing) -> Result:
    """The result of a bar whose side did not open: the machine's reason waives it, any other is a failure."""
    if lack.is_waived:
        return _without(bar, Outcome.WAIVED, str(lack.error))
    return _without(bar, Outcome.FAIL, f"{type(lack.error).__name__}: {lack.error}")


def _sample(bench: Bench, bars: Sequence[Bar], sides: Sequence[Side]) -> dict[str, Result]:
    """Run rounds until every bar is decided or has used up its pairs or its time."""
    samples = max(bar.samples for bar in bars)
    deadline = time.monotonic() + max(bar.time_limit_s for bar in bars)
    least = max(bar.min_pairs for bar in bars)
    most = max(bar.max_pairs for bar in bars)
    measured = Measured(bars[0].point)
    if any(bar.warms_up for bar in bars):
        warm_up(sides, samples)
    num_pairs = 0
    while True:
        look = min(max(next_look(num_pairs), least), most)
        while num_pairs < look and (num_pairs < 1 or time.monotonic() < deadline):
            run_rounds(sides, measured, 1, samples)
            num_pairs += 1
        results = {bar.id: evaluate(bar, measured, bench.rng) for bar in bars}
        undecided = [result for result in results.values() if result.outcome is Outcome.INCONCLUSIVE]
        if not undecided or num_pairs >= most or time.monotonic() >= deadline:
            return results


def evaluate(bar: Bar, measured: Measured, rng: np.random.Generator) -> Result:
    """The result of a bar from the blocks measured so far. Wrong data fails it."""
    against, limit = bar.against, bar.limit
    if bar.alternative and _is_reached(bar, bar.alternative, measured):
        against, limit = bar.alternative.against, bar.alternative.limit
    interval = _interval(bar, against, measured, rng)
    num_pairs = len(measured.blocks[bar.side])
    errors = measured.errors.get(bar.side, 0) + measured.errors.get(against, 0)
    outcome = judge(interval, limit) if errors == 0 else Outcome.FAIL
    few = f"rests on few pairs: {num_pairs}" if num_pairs < MIN_PAIRS else ""
    return Result(
        bar.id,
        bar.group,
        bar.what,
        interval.centre,
        interval.low,
        interval.high,
        str(limit),
        outcome,
        against,
        num_pairs,
        f"{errors} errors in the data" if errors else few,
    )


def _interval(bar: Bar, against: str, measured: Measured, rng: np.random.Generator) -> Interval:
    mine = _values(measured, bar.side, bar.statistic)
    theirs = _values(measured, against, bar.against_statistic)
    return ratio_interval(mine, theirs, rng) if bar.compare == "time" else ratio_interval(theirs, mine, rng)


def _is_reached(bar: Bar, alternative: Alternative, measured: Measured) -> bool:
    """Whether the bar's own reference is nearly as fast as the alternative one."""
    if alternative.against not in measured.blocks:
        return False
    first = np.median(_values(measured, bar.against, "p50"))
    other = np.median(_values(measured, alternative.against, "p50"))
    return bool(other / first >= alternative.from_fraction)


def _values(measured: Measured, side: str, statistic: str) -> Samples:
    return np.array([STATISTICS[statistic](block) for block in measured.blocks[side]])


def _without(bar: Bar, outcome: Outcome, reason: str) -> Result:
    return Result(
        bar.id, bar.group, bar.what, None, None, None, str(bar.limit), outcome, bar.against, 0, reason
    )
