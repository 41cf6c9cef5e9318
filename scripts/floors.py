"""The floors of the house: which module may import which. Tests hold it, docs/architecture.md prints it.

A module imports only from floors below its own, or from names that stand before it on its own floor. A name
covers the module and everything inside the package of that name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Floor:
    """A floor: its modules, each of which may import those before it, and their purpose."""

    number: int
    purpose: str
    modules: tuple[str, ...]


FLOORS = (
    Floor(
        0,
        "plain values: errors, arguments, sizes, settings, the machine's limits, files that outlive a run",
        ("umem.errors", "umem.arguments", "umem.units", "umem.limits", "umem.config", "umem.files"),
    ),
    Floor(
        1,
        "every inner loop, one Python source for every target; the table of coherence, and its checks",
        (
            "umem.kernels.status",
            "umem.kernels.intrinsics",
            "umem.kernels.build",
            "umem.kernels.page",
            "umem.kernels.data",
            "umem.kernels.heap",
            "umem.kernels.coherent",
            "umem.kernels.collective",
            "umem.kernels.embedding",
            "umem.kernels.access",
            "umem.kernels",
            "umem.coherence",
        ),
    ),
    Floor(
        2,
        "processes and memory: the ranks of a world, and the memory that each maps",
        ("umem.world", "umem.memory"),
    ),
    Floor(
        3,
        "reaching memory: transports and the one place that routes, the serving thread, allocation, coherent copies",
        ("umem.fabric", "umem.agent", "umem.heap", "umem.lines"),
    ),
    Floor(4, "the space and its arrays, which a program holds", ("umem.space",)),
    Floor(5, "workloads over the space", ("umem.collectives",)),
    Floor(6, "workloads over teams", ("umem.moe", "umem.embedding")),
    Floor(7, "umem under torch: its allocator, sharing, offload", ("umem.torch",)),
    Floor(
        8,
        "the tools that a person runs: measurements, checks, the command line",
        (
            "umem",
            "umem.bench.harness",
            "umem.bench.output",
            "umem.bench.parts",
            "umem.bench.peers",
            "umem.bench.cases",
            "umem.bench.prepare",
            "umem.bench.bars",
            "umem.bench.tune",
            "umem.bench.command",
            "umem.bench.verdict",
            "umem.bench",
            "umem.verify",
            "umem.cli",
            "umem.__main__",
        ),
    ),
)

# Packages whose rooms are named one by one: their own name covers only their `__init__`, or else it would cover
# every module that was forgotten.
NAMED_BY_ROOMS = ("umem", "umem.kernels", "umem.bench")

# The only module that reads or writes the process's environment.
ENVIRONMENT_READER = "umem.config"

# Heavy or optional: no module below this floor imports them while being imported.
OPTIONAL_PACKAGES = frozenset({"torch", "cupy", "ucxx", "ucp", "mpi4py", "pyroute2"})
OPTIONAL_FROM_FLOOR = 7

# `import umem` loads none of these.
NOT_LOADED_BY_IMPORT = ("numba", "torch", "cupy", "typer", "rich", "matplotlib", "ucxx", "ucp", "cuda")

# A wait is on a condition, a descriptor or a process. The exceptions, each with its reason.
MAY_SLEEP = {
    "umem.bench.cases.agent": "what idle ranks use is measured over a window of time",
    "umem.bench.parts.agent": "operations come at intervals, so that each meets an agent that sleeps",
    "umem.bench.parts.perftest": "another program's start gives nothing to wait on",
    "umem.fabric.ucx.fabric": "the agent's word that a rank is dead comes through memory; looked at until a deadline",
    "umem.memory.waiting": "nothing tells of a thread that comes back from compiled code; looked at until a deadline",
}

MAX_LINES = 400


def place(module: str) -> tuple[int, int] | None:
    """(floor, position on it) of the longest name that covers `module`; None where none does."""
    best: tuple[int, int, int] | None = None
    for floor in FLOORS:
        for position, name in enumerate(floor.modules):
            covers = module == name or (name not in NAMED_BY_ROOMS and module.startswith(name + "."))
            if covers and (best is None or len(name) > best[0]):
                best = (len(name), floor.number, position)
    return None if best is None else best[1:]
