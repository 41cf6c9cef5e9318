"""Compiled code that is ready before a rank's first line: in the cache, and in memory where every rank needs it.

All other kernels are loaded at their first call, in 1 to 4 ms each, and ranks that never call them pay nothing.
"""

from __future__ import annotations

from ..agent.asking import requests
from ..agent.serving import agent, state
from ..agent.serving.handlers import BUILT_IN
from ..agent.serving.near_handlers import NEAR
from ..fabric.ucx import library, operations, turns
from ..fabric.ucx.peer import note_failure
from ..heap.handlers import HEAP_HANDLERS
from ..kernels.build.compile import CORE, Lazy
from ..kernels.build.precompile import is_missing, precompile
from ..kernels.heap import entries
from ..kernels.page import gate
from ..kernels.page.barrier import cpu_world_barrier
from ..world.spec import HOSTS, MAPPED
from . import space

assert space  # ranks open one: they find it imported


def compile_all() -> None:
    """Compile all kernels into the cache, also those that worlds load on demand, so that no run waits for it."""
    from ..lines import cache

    precompile(groups=[*kernel_groups(is_mapped=False), cache.COHERENCE_KERNELS], min_missing=1)


def kernel_groups(is_mapped: bool = True) -> list[str]:
    """The groups of kernels that ranks find in the cache. Loads libucp, whose functions some of them call.

    Where not every rank `is_mapped`, they include those by which agents serve coherence.
    """
    groups = [CORE]
    if library.is_available():
        library.load()
        groups.append(turns.UCX_KERNELS)
        if not is_mapped:
            from ..lines.home.service import FLIT_KERNELS

            groups.append(FLIT_KERNELS)
    return groups


def kernels_of_start(kind: str = MAPPED) -> list[Lazy]:
    """The kernels that every rank of such a world calls or hands to UCX or its agent, from its start to its end.

    Handlers are among them, though few are ever called: an agent must answer at once, also while its rank's program
    keeps Python from loading one.
    """
    kernels: list[Lazy] = [entries.init, entries.open_for_nobody, turns.close]
    kernels += [agent.publish_handler, agent.refuse_without_ucx, agent.serve]
    kernels += [state.receive_request, state.drop_greeting]
    kernels += [*BUILT_IN.values(), *NEAR.values(), *HEAP_HANDLERS.values()]
    if kind == MAPPED:
        kernels.append(cpu_world_barrier)
    else:
        from ..lines.home import service

        kernels += service.FLIT_HANDLERS.values()
        kernels += [requests.ask, requests.post_request, requests.ask_for_gate, requests.receive_reply]
        kernels += [gate.get, gate.put, turns.call_in_turn]
        kernels += [operations.send, operations.recv, operations.resume, operations.flush]
    if kind == HOSTS:
        kernels += [state.note_lost_connection, note_failure]
    return kernels


def prepare(kind: str = MAPPED) -> None:
    """Load libucp and the kernels of the start, in the process that forks the ranks.

    Where one of those is not in the cache, all kernels are put there. It makes no UCX context and starts no thread, so
    a fork after it is safe.
    """
    groups = kernel_groups(kind == MAPPED)
    needed = [lazy for lazy in kernels_of_start(kind) if lazy.group in groups]
    if any(map(is_missing, needed)):
        precompile(groups=groups)
    for lazy in needed:
        lazy.load()
