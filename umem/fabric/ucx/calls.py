"""Calls into libucp and libc for compiled code: symbols, bound by name when a kernel is loaded.

Pointers, handles and sizes are int64, so that compiled arithmetic never mixes signedness. A
`ucs_status_ptr_t` is an int64 too: 0 done, below 0 an error, above 0 a request to progress and free.
Load library.load() first, or install_stubs() where there is no libucp.
"""

from __future__ import annotations

from typing import Any

from numba.core import types

from . import library
from .abi import UCS_ERR_UNSUPPORTED

_TYPES = {"i8": types.int8, "i16": types.int16, "i32": types.int32, "i64": types.int64, "void": types.void}
_NAMES: list[str] = []  # symbols of libucp that compiled code uses


def _symbol(name: str, result: str, arguments: str) -> Any:
    return types.ExternalFunction(name, _TYPES[result](*(_TYPES[argument] for argument in arguments.split())))


def _ucp(name: str, result: str, arguments: str) -> Any:
    _NAMES.append(name)
    return _symbol(name, result, arguments)


# (worker)
worker_progress = _ucp("ucp_worker_progress", "i32", "i64")
worker_arm = _ucp("ucp_worker_arm", "i8", "i64")
worker_signal = _ucp("ucp_worker_signal", "i8", "i64")
# (endpoint, buffer, count, tag, param)
tag_send = _ucp("ucp_tag_send_nbx", "i64", "i64 i64 i64 i64 i64")
# (worker, buffer, count, tag, tag_mask, param)
tag_recv = _ucp("ucp_tag_recv_nbx", "i64", "i64 i64 i64 i64 i64 i64")
# (request, ucp_tag_recv_info_t*)
tag_recv_test = _ucp("ucp_tag_recv_request_test", "i8", "i64 i64")
# (worker, tag, tag_mask, remove, ucp_tag_recv_info_t*): a ucp_tag_message_h, or 0
tag_probe = _ucp("ucp_tag_probe_nb", "i64", "i64 i64 i64 i32 i64")
# (worker, buffer, count, message, param)
tag_message_recv = _ucp("ucp_tag_msg_recv_nbx", "i64", "i64 i64 i64 i64 i64")
# (endpoint, message_id, header, header_length, buffer, count, param)
am_send = _ucp("ucp_am_send_nbx", "i64", "i64 i32 i64 i64 i64 i64 i64")
# (worker, data)
am_data_release = _ucp("ucp_am_data_release", "void", "i64 i64")
# (endpoint, buffer, count, remote_address, remote_key, param)
put = _ucp("ucp_put_nbx", "i64", "i64 i64 i64 i64 i64 i64")
get = _ucp("ucp_get_nbx", "i64", "i64 i64 i64 i64 i64 i64")
# (endpoint, opcode, buffer, count, remote_address, remote_key, param)
atomic = _ucp("ucp_atomic_op_nbx", "i64", "i64 i32 i64 i64 i64 i64 i64")
# (endpoint, param)
endpoint_flush = _ucp("ucp_ep_flush_nbx", "i64", "i64 i64")
# (request)
request_status = _ucp("ucp_request_check_status", "i8", "i64")
request_free = _ucp("ucp_request_free", "void", "i64")
# (worker, request)
request_cancel = _ucp("ucp_request_cancel", "void", "i64 i64")

# (pollfd*, count, timeout_ms)
poll = _symbol("poll", "i32", "i64 i64 i32")


def bind(stub_address: int) -> bool:
    """Make every symbol here resolvable; False where they are bound to the stub at `stub_address`.

    The stub is a C function that returns UCS_ERR_UNSUPPORTED whatever it is given.
    """
    if library.is_available():
        library.load()
        return True
    library.install_stubs(tuple(_NAMES), stub_address)
    return False


STUB_RESULT = UCS_ERR_UNSUPPORTED
