"""The answers of a busy home's agent, and the CPU time of idle ranks."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from umem.world.spec import HOSTS, NO_PEER_ACCESS

from ..harness.case import Case
from ..harness.side import HOME_NONE, NO_SEMANTICS, Measured, Options, Point, Side
from ..harness.stats import Samples
from ..harness.wire import Group, Part
from ..harness.workers import Workers
from .registry import register

CLIENT, _HOME = 0, 1
HOLD_S = 5.0
SLOWEST_S = 0.004  # an operation and the gap before it, with a wide margin
IDLE_WINDOW_S = 1.0
ONE_PERCENT = 0.01
SETTLE_S = 1.0  # after start-up, before idle ranks are watched

_OPERATIONS = {"get": "rma", "put": "rma", "fetch_add": "rma", "alloc": "near"}


class BusyHome:
    """Keeps rank 1 in calls that hold its GIL while rank 0 is measured; shared by the sides of a point."""

    def __init__(self, ranks: Group, num_burners: int):
        self.folder = tempfile.TemporaryDirectory(prefix="umem-bench-")
        self.part = Part(ranks, "umem.bench.parts.agent:Home", folder=self.folder.name)
        self.num_burners = num_burners
        self._burners: list[subprocess.Popen[bytes]] = []
        self._held_until = 0.0
        self._is_posted = False
        self._num_users = 0

    def open(self) -> None:
        """Make the part and start the other busy processes, at the first user's call."""
        self.part.open()
        self._num_users += 1
        if self._num_users == 1:
            burn = [sys.executable, "-c", "while True: pass"]
            self._burners = [subprocess.Popen(burn) for _ in range(self.num_burners)]

    def call(self, operation: str, num_samples: int) -> Samples:
        """Seconds of `num_samples` operations by rank 0, all while rank 1 holds its GIL."""
        if time.monotonic() + num_samples * SLOWEST_S > self._held_until:
            self.release()
            self.part.post("hold", HOLD_S, only=_HOME)
            self._is_posted = True
            self.part.call("await_hold", only=CLIENT)
            self._held_until = time.monotonic() + HOLD_S
        samples: Samples = self.part.call(operation, num_samples, only=CLIENT)[0]
        return samples

    def release(self) -> None:
        """Wait until rank 1 is back from its call."""
        if self._is_posted:
            self.part.take(only=_HOME)
            self._is_posted = False

    def close(self) -> None:
        """End the processes and the call of rank 1, at the last user's call."""
        self._num_users -= 1
        if self._num_users == 0:
            for burner in self._burners:
                burner.kill()
                burner.wait()
            if self.part.group.is_alive:
                self.release()
            self.folder.cleanup()
        self.part.close()


class BusySide(Side):
    """One operation of rank 0 at a busy home."""

    def __init__(self, name: str, semantics: str, home: BusyHome, peer: str | None = None):
        super().__init__(name, semantics, peer)
        self._home, self.detail = home, "" if peer else name

    def open(self) -> None:
        self._home.open()

    def block(self, num_samples: int) -> Samples:
        return self._home.call(self.name, num_samples)

    def num_errors(self) -> int:
        return sum(self._home.part.call("num_errors", only=CLIENT))

    def close(self) -> None:
        self._home.close()


@register
class Agent(Case):
    """Accesses to a home whose user code holds the GIL."""

    key = "agent.busy_home"
    description = (
        "rank 1 sits 5 s in one call that holds the GIL; rank 0 uses its memory, an operation every 500 us"
    )
    semantics = ("rma", "near")
    worlds = (NO_PEER_ACCESS, HOSTS)
    limit_side = "eventfd"
    most_samples = 100
    budget_s = 12.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(8, (("burners", burners),)) for burners in (0, 1)]

    def brief_points(self, options: Options) -> Sequence[Point]:
        return [Point(8, (("burners", 0),))]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        home = BusyHome(workers.ranks(num_ranks=2), int(point.setting("burners", 0)))
        sides: list[Side] = [BusySide(name, semantics, home) for name, semantics in _OPERATIONS.items()]
        sides.append(BusySide("eventfd", NO_SEMANTICS, home, peer="eventfd"))
        if workers.options.world == HOSTS:
            sides.append(BusySide("tcp", NO_SEMANTICS, home, peer="tcp"))
        return sides

    def bytes_moved(self, point: Point) -> int:
        return 0

    def remarks(self, measured: Measured) -> Sequence[str]:
        """The worst cases, which a median and a 99th percentile hide."""
        samples = {name: np.concatenate(blocks) * 1e6 for name, blocks in measured.blocks.items()}
        worst = [f"{name} {samples[name].max():.0f}" for name in _OPERATIONS if name in samples]
        remarks = [f"{measured.point.label}: worst case in us: {', '.join(worst)}"]
        if "eventfd" in samples:
            percentiles = np.percentile(samples["eventfd"], [50, 99, 100])
            remarks.append("eventfd p50 {:.0f}, p99 {:.0f}, worst {:.0f}".format(*percentiles))
        return ["; ".join(remarks)]


class Watch:
    """CPU time of a group's processes over a window in which they get no request."""

    def __init__(self, ranks: Group):
        self.ranks = ranks
        self.window_s = IDLE_WINDOW_S

    def cpu_s(self) -> float:
        """CPU seconds that all processes of the group use in one window."""
        begin_s, begin = self._cpu_s(), time.monotonic()
        time.sleep(IDLE_WINDOW_S)
        self.window_s = time.monotonic() - begin
        return self._cpu_s() - begin_s

    def _cpu_s(self) -> float:
        tasks = [task for pid in self.ranks.pids for task in Path(f"/proc/{pid}/task").iterdir()]
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) * 1e-9


class IdleSide(Side):
    """CPU seconds that idle ranks use in a second."""

    def __init__(self, watch: Watch):
        super().__init__("idle_ranks", NO_SEMANTICS)
        self._watch = watch

    def open(self) -> None:
        self._watch.ranks.start()
        time.sleep(SETTLE_S)  # the last work of start-up is not idling, and gives no sign of its end

    def block(self, num_samples: int) -> Samples:
        return np.array([self._watch.cpu_s()])


class ShareSide(Side):
    """One per cent of the same window: the limit of idle ranks."""

    def __init__(self, watch: Watch):
        super().__init__("one_percent", NO_SEMANTICS, peer="1 % of a core")
        self._watch = watch

    def block(self, num_samples: int) -> Samples:
        return np.array([ONE_PERCENT * self._watch.window_s])


@register
class Idle(Case):
    """Agents with nothing to do."""

    key = "agent.idle"
    description = (
        "CPU time that all ranks of a world use together in a second in which nobody asks for anything"
    )
    limit_side = "one_percent"
    home = HOME_NONE
    most_samples = 1
    min_ranks = 1
    budget_s = 5.0

    def points(self, options: Options) -> Sequence[Point]:
        return [Point(0)]

    def sides(self, workers: Workers, point: Point) -> Sequence[Side]:
        watch = Watch(workers.ranks())
        return [IdleSide(watch), ShareSide(watch)]
