"""Handles of libucp and their lifetimes: context, workers, endpoints, registered memory, remote keys.

A worker and everything made from it belong to one thread at a time; where threads share one, its `call` takes turns.
Handles are plain integers, so that compiled code takes them. Nothing here waits without a deadline.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from ctypes import byref, c_int, c_int8, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

from ... import config
from ...errors import FabricError
from ...world.waiting import Deadline, until
from . import abi
from .library import Library, load, unset

_PROTOTYPES: dict[str, tuple[object, tuple[object, ...]]] = {
    "ucp_init_version": (c_int8, (c_uint, c_uint, c_void_p, c_uint64, c_void_p)),
    "ucp_cleanup": (None, (c_uint64,)),
    "ucp_worker_create": (c_int8, (c_uint64, c_void_p, c_void_p)),
    "ucp_worker_destroy": (None, (c_uint64,)),
    "ucp_worker_get_address": (c_int8, (c_uint64, c_void_p, c_void_p)),
    "ucp_worker_release_address": (None, (c_uint64, c_uint64)),
    "ucp_worker_get_efd": (c_int8, (c_uint64, c_void_p)),
    "ucp_worker_progress": (c_uint, (c_uint64,)),
    "ucp_worker_signal": (c_int8, (c_uint64,)),
    "ucp_worker_set_am_recv_handler": (c_int8, (c_uint64, c_void_p)),
    "ucp_ep_create": (c_int8, (c_uint64, c_void_p, c_void_p)),
    "ucp_ep_close_nbx": (ctypes.c_int64, (c_uint64, c_void_p)),
    "ucp_request_check_status": (c_int8, (c_uint64,)),
    "ucp_request_free": (None, (c_uint64,)),
    "ucp_mem_map": (c_int8, (c_uint64, c_void_p, c_void_p)),
    "ucp_mem_unmap": (c_int8, (c_uint64, c_uint64)),
    "ucp_rkey_pack": (c_int8, (c_uint64, c_uint64, c_void_p, c_void_p)),
    "ucp_rkey_buffer_release": (None, (c_uint64,)),
    "ucp_ep_rkey_unpack": (c_int8, (c_uint64, c_void_p, c_void_p)),
    "ucp_rkey_destroy": (None, (c_uint64,)),
}


class Context:
    """One UCX context: which transports this process uses.

    `environment` (UCX_TLS, UCX_NET_DEVICES and the like) is in force while the context and its
    workers are made, and nowhere else. Raises FabricMissing without a libucp.
    """

    def __init__(self, environment: Mapping[str, str], num_endpoints: int = 1):
        self.library: Library = load()
        self.ucp = _with_prototypes(self.library.ucp)
        self.environment = {**unset({"UCX_WARN_UNUSED_ENV_VARS": "n"}), **environment}
        self.handle = 0
        self.workers: list[Worker] = []
        self.regions: list[Region] = []
        parameters = abi.Params(
            field_mask=abi.CONSTANTS["UCP_PARAM_FIELD_FEATURES"]
            | abi.CONSTANTS["UCP_PARAM_FIELD_MT_WORKERS_SHARED"]
            | abi.CONSTANTS["UCP_PARAM_FIELD_ESTIMATED_NUM_EPS"],
            features=abi.FEATURES,
            mt_workers_shared=1,  # the agent's thread and the user's drive workers of their own
            estimated_num_eps=num_endpoints,
        )
        handle = c_uint64()
        with config.environment(self.environment):
            status = self.ucp.ucp_init_version(*abi.API_VERSION, byref(parameters), 0, byref(handle))
        self.check(status, "ucp_init")
        self.handle = handle.value

    def worker(self) -> Worker:
        """A new worker, to be used by one thread at a time."""
        worker = Worker(self)
        self.workers.append(worker)
        return worker

    def register(self, address: int, num_bytes: int) -> Region:
        """Make [address, address + num_bytes) reachable by put, get and atomics of peers.

        With shared memory and tcp the home's worker does the copying, so nothing is pinned and the
        range may have holes that nobody touches; with RDMA the whole range must be mapped.
        """
        region = Region(self, address, num_bytes)
        self.regions.append(region)
        return region

    def check(self, status: int, call: str, peer: str = "") -> None:
        """Raise FabricError if `status` is an error of `call`."""
        if status < 0:
            text = self.library.status_text(status)
            towards = f" towards {peer}" if peer else ""
            raise FabricError(f"{call} failed{towards}: {text} ({status})")

    def close(self, timeout_s: float = 5.0) -> None:
        """Close what was made from this context, in order; safe to repeat.

        Takes at most `timeout_s` a worker.
        """
        for worker in self.workers:
            worker.close(timeout_s)
        for region in self.regions:
            region.close()
        if self.handle:
            self.ucp.ucp_cleanup(self.handle)
            self.handle = 0


def call_alone(function: Any, *words: int) -> int:
    """Call a function of UCX, by a thread that has the worker for itself."""
    return int(function(*words))


class Worker:
    """A progress engine and its address, which peers connect to."""

    def __init__(self, context: Context):
        self.context, self.ucp = context, context.ucp
        self.call: Callable[..., int] = call_alone  # what is called when several threads may use the worker
        self.endpoints: list[Endpoint] = []
        parameters = abi.WorkerParams(
            field_mask=abi.CONSTANTS["UCP_WORKER_PARAM_FIELD_THREAD_MODE"]
            | abi.CONSTANTS["UCP_WORKER_PARAM_FIELD_FLAGS"],
            thread_mode=abi.CONSTANTS["UCS_THREAD_MODE_SERIALIZED"],
            # a receive that a dead peer left behind is no leak worth a line on stderr
            flags=abi.CONSTANTS["UCP_WORKER_FLAG_IGNORE_REQUEST_LEAK"],
        )
        handle = c_uint64()
        with config.environment(context.environment):  # interfaces read theirs here
            status = self.ucp.ucp_worker_create(context.handle, byref(parameters), byref(handle))
        context.check(status, "ucp_worker_create")
        self.handle = handle.value
        event_fd = c_int()
        context.check(self.ucp.ucp_worker_get_efd(self.handle, byref(event_fd)), "ucp_worker_get_efd")
        self.event_fd = event_fd.value
        self.address = self._address()

    def _address(self) -> bytes:
        address, num_bytes = c_uint64(), c_size_t()
        status = self.ucp.ucp_worker_get_address(self.handle, byref(address), byref(num_bytes))
        self.context.check(status, "ucp_worker_get_address")
        packed = ctypes.string_at(address.value, num_bytes.value)
        self.ucp.ucp_worker_release_address(self.handle, address.value)
        return packed

    def connect(
        self, address: bytes, peer: str = "", failure_callback: int = 0, failure_word: int = 0
    ) -> Endpoint:
        """An endpoint of this worker to the worker with `address`; the connection is made on first use.

        With `failure_callback`, the address of a C function (failure_word, endpoint, status), UCX
        watches the peer and calls it when the peer is gone. Endpoints over shared memory and those
        that carry atomics cannot be watched (UCX fails them), so they take none.
        """
        endpoint = Endpoint(self, address, peer, failure_callback, failure_word)
        self.endpoints.append(endpoint)
        return endpoint

    def set_handler(self, message_id: int, callback: int, argument: int, keeps_data: bool = False) -> None:
        """Call the C function `callback(argument, header, ...)` for active messages with `message_id`.

        0 as `callback` drops them. The callback runs inside progress, so it must only queue. UCX hands
        over whole messages only. With `keeps_data` it may return UCS_INPROGRESS and use the data until
        ucp_am_data_release.
        """
        flags = abi.CONSTANTS["UCP_AM_FLAG_WHOLE_MSG"]
        if keeps_data:
            flags |= abi.CONSTANTS["UCP_AM_FLAG_PERSISTENT_DATA"]
        parameters = abi.AmHandlerParam(
            field_mask=abi.CONSTANTS["UCP_AM_HANDLER_PARAM_FIELD_ID"]
            | abi.CONSTANTS["UCP_AM_HANDLER_PARAM_FIELD_FLAGS"]
            | abi.CONSTANTS["UCP_AM_HANDLER_PARAM_FIELD_CB"]
            | abi.CONSTANTS["UCP_AM_HANDLER_PARAM_FIELD_ARG"],
            id=message_id,
            flags=flags,
            cb=callback,
            arg=argument,
        )
        operands = self.handle, ctypes.addressof(parameters)
        status = _signed_byte(self.call(self.ucp.ucp_worker_set_am_recv_handler, *operands))
        self.context.check(status, "ucp_worker_set_am_recv_handler")

    def progress(self) -> int:
        """Advance this worker's work once; how much was done."""
        return int(self.ucp.ucp_worker_progress(self.handle))

    def signal(self) -> None:
        """Wake the threads that sleep on this worker's event fd. The one call that any thread may make."""
        self.context.check(self.ucp.ucp_worker_signal(self.handle), "ucp_worker_signal")

    def close(self, timeout_s: float) -> None:
        """Close the endpoints, then the worker; safe to repeat. Takes at most `timeout_s`."""
        if not self.handle:
            return
        deadline = Deadline(timeout_s)
        closing = [request for endpoint in self.endpoints if (request := endpoint.begin_close()) > 0]

        def look() -> bool | None:
            if not closing:
                return True
            self.progress()
            for request in [r for r in closing if self.ucp.ucp_request_check_status(r) != abi.UCS_INPROGRESS]:
                self.ucp.ucp_request_free(request)
                closing.remove(request)
            return None

        until(look, deadline)
        self.ucp.ucp_worker_destroy(self.handle)
        self.handle = 0


class Endpoint:
    """A way from a worker to one peer's worker."""

    def __init__(self, worker: Worker, address: bytes, peer: str, failure_callback: int, failure_word: int):
        self.worker, self.peer = worker, peer
        self.remote_keys: list[int] = []
        buffer = ctypes.create_string_buffer(address, len(address))
        parameters = abi.EndpointParams(
            field_mask=abi.CONSTANTS["UCP_EP_PARAM_FIELD_REMOTE_ADDRESS"],
            address=ctypes.addressof(buffer),
        )
        if failure_callback:
            parameters.field_mask |= (
                abi.CONSTANTS["UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE"]
                | abi.CONSTANTS["UCP_EP_PARAM_FIELD_ERR_HANDLER"]
            )
            parameters.err_mode = abi.CONSTANTS["UCP_ERR_HANDLING_MODE_PEER"]
            parameters.err_cb, parameters.err_arg = failure_callback, failure_word
        self.is_watched = bool(failure_callback)
        handle = c_uint64()
        operands = worker.handle, ctypes.addressof(parameters), ctypes.addressof(handle)
        status = _signed_byte(worker.call(worker.ucp.ucp_ep_create, *operands))
        worker.context.check(status, "ucp_ep_create", peer)
        self.handle = handle.value

    def unpack(self, remote_key: bytes) -> int:
        """Handle of a peer's registered region, for use with this endpoint only."""
        handle, key = c_uint64(), ctypes.create_string_buffer(remote_key, len(remote_key))
        context = self.worker.context
        operands = self.handle, ctypes.addressof(key), ctypes.addressof(handle)
        status = _signed_byte(self.worker.call(context.ucp.ucp_ep_rkey_unpack, *operands))
        context.check(status, "ucp_ep_rkey_unpack", self.peer)
        self.remote_keys.append(handle.value)
        return handle.value

    def begin_close(self) -> int:
        """Start closing; a request to wait for, or a value <= 0 where there is nothing to wait for.

        A peer that has stopped or died cannot take part, so nothing is flushed: flush before where that
        is needed. UCX closes an endpoint without its peer only where it watches the peer; the others end
        with their worker.
        """
        ucp = self.worker.ucp
        for remote_key in self.remote_keys:
            ucp.ucp_rkey_destroy(remote_key)
        self.remote_keys.clear()
        handle, self.handle = self.handle, 0
        if not handle or not self.is_watched:
            return 0
        parameters = abi.RequestParam(
            op_attr_mask=abi.CONSTANTS["UCP_OP_ATTR_FIELD_FLAGS"],
            flags=abi.CONSTANTS["UCP_EP_CLOSE_FLAG_FORCE"],
        )
        return int(ucp.ucp_ep_close_nbx(handle, byref(parameters)))


class Region:
    """Memory of this process that peers may reach, and the key that lets them."""

    def __init__(self, context: Context, address: int, num_bytes: int):
        self.context, self.address, self.num_bytes = context, address, num_bytes
        parameters = abi.MemMapParams(
            field_mask=abi.CONSTANTS["UCP_MEM_MAP_PARAM_FIELD_ADDRESS"]
            | abi.CONSTANTS["UCP_MEM_MAP_PARAM_FIELD_LENGTH"]
            | abi.CONSTANTS["UCP_MEM_MAP_PARAM_FIELD_FLAGS"]
            | abi.CONSTANTS["UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE"],
            address=address,
            length=num_bytes,
            flags=abi.CONSTANTS["UCP_MEM_MAP_NONBLOCK"],
            memory_type=abi.CONSTANTS["UCS_MEMORY_TYPE_HOST"],
        )
        handle = c_uint64()
        status = context.ucp.ucp_mem_map(context.handle, byref(parameters), byref(handle))
        context.check(status, f"ucp_mem_map of {num_bytes} B at {address:#x}")
        self.handle = handle.value
        self.remote_key = self._pack()

    def _pack(self) -> bytes:
        buffer, num_bytes = c_uint64(), c_size_t()
        context = self.context
        status = context.ucp.ucp_rkey_pack(context.handle, self.handle, byref(buffer), byref(num_bytes))
        context.check(status, "ucp_rkey_pack")
        packed = ctypes.string_at(buffer.value, num_bytes.value)
        context.ucp.ucp_rkey_buffer_release(buffer.value)
        return packed

    def close(self) -> None:
        """Take the memory back from peers; safe to repeat."""
        if self.handle:
            status = self.context.ucp.ucp_mem_unmap(self.context.handle, self.handle)
            self.context.check(status, "ucp_mem_unmap")
            self.handle = 0


def _signed_byte(result: int) -> int:
    """A ucs_status_t, of which compiled code sees more than its byte."""
    return ctypes.c_int8(result).value


def _with_prototypes(ucp: ctypes.CDLL) -> ctypes.CDLL:
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(ucp, name)
        function.restype, function.argtypes = result, arguments
    return ucp
