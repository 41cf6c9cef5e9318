"""The agent of a rank: its thread, its table of handlers, and the client that asks other agents.

`Agent(world, control, fabric)` builds everything, `register` fills the table, `start` starts the thread,
`close` ends it. Without a fabric it still runs, for liveness and the epoch alone.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...errors import ConfigError, FabricMissing, UmemError, WaitTimeout, WorldError
from ...fabric.ucx import calls
from ...fabric.ucx.library import INSTALL_UCX
from ...kernels import status
from ...kernels.build.compile import c_callback, cpu_kernel
from ...kernels.intrinsics.scalar import store_i64, store_release_i64
from ...kernels.page.control import CONTROL_BYTES
from ...memory.control_page import ControlPage
from ...world.forks import MakeError, belongs_here, refuse
from .. import layout
from ..asking.client import Client, check_credits
from ..asking.messages import Request, operation_name
from ..asking.remote import GpuFabric, RemoteFabric
from ..private_memory import Words
from ..spins import Spins
from .handlers import BUILT_IN
from .loop import serve
from .near_handlers import NEAR, NEAR_OTHER_TYPES
from .state import Ranks, build_state

if TYPE_CHECKING:
    from ...fabric.ucx.fabric import UcxFabric
    from .gpu_memory import GpuMemory

JOIN_S = 5.0  # for the loop to see AGENT_STOP: it ends within a handler's time and FAREWELL_NS


class Handler(Protocol):
    """A compiled handler: int64(request, reply, context) as a C function (kernels.c_callback)."""

    @property
    def address(self) -> int:
        """Address of the machine code."""
        ...


class Agent:
    """Serves other ranks' requests to this one, and confirms deaths, in a thread of compiled code.

    `control` is the address of this rank's control page, `fabric` the UcxFabric or None. `credits`
    requests may be in flight from each rank to each agent, and `agent_credits` from each agent to each other:
    the same numbers in all ranks of the world. `gpu_memory` serves a device segment that is a GPU's.
    A process that is forked from a rank has no agent: there every call raises ForkedRank.
    """

    def __init__(
        self,
        world: Ranks,
        control: int,
        fabric: UcxFabric | None = None,
        credits: int = layout.DEFAULT_CREDITS,
        spins: Spins | None = None,
        agent_credits: int = 0,
        gpu_memory: GpuMemory | None = None,
    ):
        self.rank, self.num_ranks = world.rank, world.num_ranks
        self.page = ControlPage(_words_at(control))
        check_credits(credits)
        self._fabric = fabric
        self._handlers: dict[int, Handler] = {}
        self._thread: threading.Thread | None = None
        self._code = [status.OK]
        self._cores = tuple(world.usable_cores)
        num_local = sum(
            world.shares_pids(rank) for rank in range(world.num_ranks)
        )  # hosts may share a machine
        spins = spins or Spins.fit(num_local, len(self._cores))
        bind_ucx()
        self._local_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._gpu_memory = gpu_memory
        self.state = build_state(
            world, self.page, fabric, gpu_memory, credits + agent_credits, spins, self._local_fd
        )
        self._credits, self._spins = credits, spins
        self._client: Client | None = None
        self._making_client = threading.RLock()  # a finalizer may ask in the middle of it
        self._make_refusal: MakeError | None = None
        for operation, handler in (BUILT_IN | NEAR).items():
            self.register(operation, handler, context=self.state[layout.AGENT_OWN])

    # --- handlers

    def register(self, operation: int, handler: Handler, context: int = 0) -> None:
        """Serve `operation` by `handler`, before or after `start`; users have Operation.USER to 255.

        `context` is handed to every call. The handler runs in the agent's thread: it must not block; one
        that cannot finish returns PENDING and is called again. Raises ConfigError for a code that is taken.
        """
        if not 0 <= operation < layout.NUM_OPERATIONS:
            raise ConfigError(f"operation {operation} is not between 0 and {layout.NUM_OPERATIONS - 1}")
        if self._handlers.setdefault(operation, handler) is not handler:
            raise ConfigError(f"{operation_name(operation)} has a handler already; take another code")
        entry = self.state[layout.AGENT_HANDLERS] + 2 * layout.WORD * operation
        publish_handler(entry, handler.address, context)

    def endpoint_to(self, rank: int) -> int:
        """Handle of an endpoint from this agent to that of `rank`, for the agent's thread; before `start`."""
        assert self._thread is None and self._fabric is not None
        watch = self.state[layout.AGENT_WATCHES] + rank * layout.WATCH_WORDS * layout.WORD
        connected = ctypes.c_int64.from_address(watch + layout.WATCH_ENDPOINT * layout.WORD).value
        if connected:
            return connected
        address = self._fabric.agent_addresses[rank]
        return self._fabric.agent.of(rank).connect(address, f"the agent of rank {rank}").handle

    def serve_other_types(self) -> None:
        """Serve near sums of other types than float32 too: at every home that will be asked for them."""
        for operation, handler in NEAR_OTHER_TYPES.items():
            self.register(operation, handler, context=self.state[layout.AGENT_OWN])
        if self._gpu_memory is not None:
            self._gpu_memory.load_other_types()

    # --- asking

    @property
    def client(self) -> Client:
        """The client for requests to other agents, made at first use. Raises FabricMissing where there is no UCX."""
        if self._client is None:
            self._refuse_client()
            with self._making_client:
                self._refuse_client()
                if self._client is None:
                    assert self._fabric is not None
                    self._client = Client(self._fabric, self.page, self._credits, self._spins)
        return self._client

    def _refuse_client(self) -> None:
        if self._fabric is None:
            raise FabricMissing(f"asking another rank's agent needs UCX. Fix: {INSTALL_UCX}")
        if self._client is None and self._make_refusal is not None:
            raise self._make_refusal()

    @functools.cached_property
    def remote(self) -> RemoteFabric | None:
        """The fabric to homes that this rank does not map; None where there is no UCX."""
        return None if self._fabric is None else RemoteFabric(self.client, self._fabric)

    @functools.cached_property
    def remote_gpu(self) -> RemoteFabric | None:
        """The fabric to memory of GPUs, which no CPU maps; None where there is no UCX."""
        return None if self._fabric is None else GpuFabric(self.client)

    def call(
        self,
        rank: int,
        operation: int,
        payload: bytes | memoryview = b"",
        arguments: tuple[int, ...] = (),
        max_reply_bytes: int = layout.MAX_PAYLOAD_BYTES,
        timeout_s: float | None = None,
    ) -> bytes:
        """The payload that the handler of `operation` at `rank` answers to up to 8 `arguments` and `payload`.

        Raises UnknownOperation, HandlerError where it refuses, RankLost, WaitTimeout, FabricError.
        """
        client = self.client
        src, dst = np.frombuffer(payload, np.uint8), np.empty(max_reply_bytes, np.uint8)
        room = (dst.ctypes.data, dst.nbytes)
        asked = Request(rank, operation, arguments, src.ctypes.data, src.nbytes, *room, keep=(src, dst))
        reply = client.ask(asked, timeout_s)
        return dst[: reply.num_bytes].tobytes()

    # --- lifetime

    def start(self) -> None:
        """Start the thread. Handlers are loaded by now, so that nothing compiles while it runs."""
        assert self._thread is None, "the agent has been started"
        thread = threading.Thread(
            target=_serve,
            args=(serve.compiled, self.state, self._code, self._cores),
            name="umem-agent",
            daemon=True,
        )
        self._thread = thread
        self._end = weakref.finalize(self, _end, self.state, self._local_fd, thread)
        belongs_here(self)
        thread.start()

    def close(self) -> None:
        """End the thread: requests that wait are answered with a refusal first. Safe to repeat.

        Before the fabric's close. The memory that UCX may still read lives as long as this object.
        Raises WaitTimeout where a handler does not come back, UmemError where the loop had failed.
        """
        thread, self._thread = self._thread, None
        if self._local_fd < 0:
            return
        if thread is not None:
            self._end()
            if thread.is_alive():
                raise WaitTimeout(f"agent of rank {self.rank}: no end after {JOIN_S:g} s, so a handler hangs")
        os.close(self._local_fd)
        self._local_fd = -1
        if self._gpu_memory is not None:
            self._gpu_memory.close()
        if self._fabric is not None:
            with self._making_client:
                self._make_refusal = functools.partial(WorldError, "the agent of this rank is closed")
                if self._client is not None:
                    self._client.shut(self._make_refusal)
                    self._fabric.main.set_handler(layout.AM_REPLY, 0, 0)
            self._fabric.agent.set_handler(layout.AM_REQUEST, 0, 0)
            self._fabric.agent.set_handler(layout.AM_REPLY, 0, 0)
        if self._code[0] != status.OK:
            raise UmemError(f"the agent of rank {self.rank} had stopped: {status.name(self._code[0])}")

    @property
    def is_running(self) -> bool:
        """Whether the thread serves."""
        return self._thread is not None and self._thread.is_alive()

    def counters(self) -> dict[str, int]:
        """How much was served, and how: for tests and `umem info`."""
        return {name: self.state[word] for name, word in layout.AGENT_COUNTERS.items()}

    def disown(self, make_error: MakeError) -> None:
        """In a forked child: there is no thread, and the parent's connections are not this process's."""
        self._end.detach()
        self._thread = None
        os.close(self._local_fd)
        self._local_fd = -1
        self._make_refusal = make_error
        if self._client is not None:
            self._client.shut(make_error)
        refuse(self, make_error, keep=("close",))


@cpu_kernel("void(int64, int64, int64)")
def publish_handler(entry, function, context):
    """Fill an entry of the table so that the loop never sees a function without its context."""
    store_i64(entry, 1, context)
    store_release_i64(entry, 0, function)


@c_callback("int64()")
def refuse_without_ucx():
    """The function to which UCX's symbols are bound where there is no UCX; never called: there is no worker."""
    return calls.STUB_RESULT


def bind_ucx() -> bool:
    """Bind the symbols that the agent's compiled code names, before it is loaded; whether UCX is there."""
    return calls.bind(refuse_without_ucx.address)


def _serve(loop: Callable[[int], int], state: Words, code: list[int], cores: tuple[int, ...]) -> None:
    """The thread. It may use every core, though its rank is pinned to one where user code may compute.

    Signals stay with the thread that runs user code, whose waits they interrupt.
    """
    os.sched_setaffinity(0, cores)  # 0 is the calling thread
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    code[0] = loop(state.address)


def _end(state: Words, local_fd: int, thread: threading.Thread) -> None:
    """Have the thread end, and wait for it; also run at exit, for an agent that was not closed."""
    state[layout.AGENT_STOP] = 1
    os.eventfd_write(local_fd, 1)
    thread.join(JOIN_S)


def _words_at(control: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_int64 * (CONTROL_BYTES // 8)).from_address(control))
