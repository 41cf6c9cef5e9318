"""The part of libucp's C interface that umem uses: structures and constants, as data.

Source: ucp/api/ucp.h, ucp_def.h and ucs/type/status.h of UCX 1.22; the offsets are the same since
1.13. `tests/fabric/test_ucx_abi.py` compiles the shipped headers and compares every value here.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from typing import ClassVar

API_VERSION = (1, 13)  # the interface umem is written to, and the oldest library it takes

# --- ucs_status_t: a packed enum of one byte
STATUSES = {
    "UCS_OK": 0,
    "UCS_INPROGRESS": 1,
    "UCS_ERR_NO_MEMORY": -4,
    "UCS_ERR_UNREACHABLE": -6,
    "UCS_ERR_MESSAGE_TRUNCATED": -9,
    "UCS_ERR_BUSY": -15,
    "UCS_ERR_CANCELED": -16,
    "UCS_ERR_TIMED_OUT": -20,
    "UCS_ERR_UNSUPPORTED": -22,
    "UCS_ERR_NOT_CONNECTED": -24,
    "UCS_ERR_CONNECTION_RESET": -25,
    "UCS_ERR_ENDPOINT_TIMEOUT": -80,
    "UCS_ERR_LAST": -100,
}
UCS_OK = 0
UCS_INPROGRESS = 1
UCS_ERR_BUSY = -15
UCS_ERR_CANCELED = -16
UCS_ERR_UNSUPPORTED = -22
UCS_ERR_NOT_CONNECTED = -24
UCS_ERR_CONNECTION_RESET = -25
UCS_ERR_ENDPOINT_TIMEOUT = -80
UCS_ERR_LAST = -100  # a ucs_status_ptr_t in [UCS_ERR_LAST, 0) is an error, above 0 a request

# --- constants, under the name they have in the headers
CONSTANTS = {
    "UCP_PARAM_FIELD_FEATURES": 1 << 0,
    "UCP_PARAM_FIELD_MT_WORKERS_SHARED": 1 << 5,
    "UCP_PARAM_FIELD_ESTIMATED_NUM_EPS": 1 << 6,
    "UCP_FEATURE_TAG": 1 << 0,
    "UCP_FEATURE_RMA": 1 << 1,
    "UCP_FEATURE_AMO32": 1 << 2,
    "UCP_FEATURE_AMO64": 1 << 3,
    "UCP_FEATURE_WAKEUP": 1 << 4,
    "UCP_FEATURE_AM": 1 << 6,
    "UCP_WORKER_PARAM_FIELD_THREAD_MODE": 1 << 0,
    "UCP_WORKER_PARAM_FIELD_FLAGS": 1 << 5,
    "UCP_WORKER_FLAG_IGNORE_REQUEST_LEAK": 1 << 0,
    "UCS_THREAD_MODE_SINGLE": 0,
    "UCS_THREAD_MODE_SERIALIZED": 1,
    "UCP_EP_PARAM_FIELD_REMOTE_ADDRESS": 1 << 0,
    "UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE": 1 << 1,
    "UCP_EP_PARAM_FIELD_ERR_HANDLER": 1 << 2,
    "UCP_ERR_HANDLING_MODE_NONE": 0,
    "UCP_ERR_HANDLING_MODE_PEER": 1,
    "UCP_EP_CLOSE_FLAG_FORCE": 1 << 0,
    "UCP_MEM_MAP_PARAM_FIELD_ADDRESS": 1 << 0,
    "UCP_MEM_MAP_PARAM_FIELD_LENGTH": 1 << 1,
    "UCP_MEM_MAP_PARAM_FIELD_FLAGS": 1 << 2,
    "UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE": 1 << 4,
    "UCP_MEM_MAP_NONBLOCK": 1 << 0,
    "UCS_MEMORY_TYPE_HOST": 0,
    "UCP_OP_ATTR_FIELD_CALLBACK": 1 << 1,
    "UCP_OP_ATTR_FIELD_USER_DATA": 1 << 2,
    "UCP_OP_ATTR_FIELD_DATATYPE": 1 << 3,
    "UCP_OP_ATTR_FIELD_FLAGS": 1 << 4,
    "UCP_OP_ATTR_FIELD_REPLY_BUFFER": 1 << 5,
    "UCP_OP_ATTR_FIELD_MEMORY_TYPE": 1 << 6,
    "UCP_OP_ATTR_FIELD_RECV_INFO": 1 << 7,
    "UCP_OP_ATTR_FLAG_NO_IMM_CMPL": 1 << 16,
    "UCP_OP_ATTR_FLAG_MULTI_SEND": 1 << 19,
    "UCP_DATATYPE_SHIFT": 3,
    "UCP_ATOMIC_OP_ADD": 0,
    "UCP_ATOMIC_OP_SWAP": 1,
    "UCP_ATOMIC_OP_CSWAP": 2,
    "UCP_ATOMIC_OP_AND": 3,
    "UCP_ATOMIC_OP_OR": 4,
    "UCP_ATOMIC_OP_XOR": 5,
    "UCP_AM_SEND_FLAG_REPLY": 1 << 0,
    "UCP_AM_SEND_FLAG_EAGER": 1 << 1,
    "UCP_AM_SEND_FLAG_COPY_HEADER": 1 << 3,
    "UCP_AM_FLAG_WHOLE_MSG": 1 << 0,
    "UCP_AM_FLAG_PERSISTENT_DATA": 1 << 1,
    "UCP_AM_RECV_ATTR_FIELD_REPLY_EP": 1 << 0,
    "UCP_AM_RECV_ATTR_FLAG_DATA": 1 << 16,
    "UCP_AM_RECV_ATTR_FLAG_RNDV": 1 << 17,
    "UCP_AM_HANDLER_PARAM_FIELD_ID": 1 << 0,
    "UCP_AM_HANDLER_PARAM_FIELD_FLAGS": 1 << 1,
    "UCP_AM_HANDLER_PARAM_FIELD_CB": 1 << 2,
    "UCP_AM_HANDLER_PARAM_FIELD_ARG": 1 << 3,
}

FEATURES = (
    CONSTANTS["UCP_FEATURE_TAG"]
    | CONSTANTS["UCP_FEATURE_RMA"]
    | CONSTANTS["UCP_FEATURE_AMO32"]
    | CONSTANTS["UCP_FEATURE_AMO64"]
    | CONSTANTS["UCP_FEATURE_AM"]
    | CONSTANTS["UCP_FEATURE_WAKEUP"]
)
ATOMIC_ADD = CONSTANTS["UCP_ATOMIC_OP_ADD"]
ATOMIC_SWAP = CONSTANTS["UCP_ATOMIC_OP_SWAP"]
ATOMIC_CSWAP = CONSTANTS["UCP_ATOMIC_OP_CSWAP"]


class Params(ctypes.Structure):
    """ucp_params_t."""

    C_NAME = "ucp_params_t"
    _fields_ = [
        ("field_mask", c_uint64),
        ("features", c_uint64),
        ("request_size", c_size_t),
        ("request_init", c_void_p),
        ("request_cleanup", c_void_p),
        ("tag_sender_mask", c_uint64),
        ("mt_workers_shared", c_int),
        ("estimated_num_eps", c_size_t),
        ("estimated_num_ppn", c_size_t),
        ("name", c_void_p),
        ("node_local_id", c_size_t),
    ]


class WorkerParams(ctypes.Structure):
    """ucp_worker_params_t."""

    C_NAME = "ucp_worker_params_t"
    _fields_ = [
        ("field_mask", c_uint64),
        ("thread_mode", c_int32),
        ("cpu_mask", c_uint64 * 16),
        ("events", c_uint32),
        ("user_data", c_void_p),
        ("event_fd", c_int),
        ("flags", c_uint64),
        ("name", c_void_p),
        ("am_alignment", c_size_t),
        ("client_id", c_uint64),
    ]


class EndpointParams(ctypes.Structure):
    """ucp_ep_params_t; err_handler and the two socket addresses are spread out into their fields."""

    C_NAME = "ucp_ep_params_t"
    C_PATHS: ClassVar[dict[str, str]] = {
        "err_cb": "err_handler.cb",
        "err_arg": "err_handler.arg",
        "sockaddr_addr": "sockaddr.addr",
        "sockaddr_addrlen": "sockaddr.addrlen",
        "local_sockaddr_addr": "local_sockaddr.addr",
        "local_sockaddr_addrlen": "local_sockaddr.addrlen",
    }
    _fields_ = [
        ("field_mask", c_uint64),
        ("address", c_void_p),
        ("err_mode", c_int32),
        ("err_cb", c_void_p),
        ("err_arg", c_void_p),
        ("user_data", c_void_p),
        ("flags", c_uint32),
        ("sockaddr_addr", c_void_p),
        ("sockaddr_addrlen", c_uint32),
        ("conn_request", c_void_p),
        ("name", c_void_p),
        ("local_sockaddr_addr", c_void_p),
        ("local_sockaddr_addrlen", c_uint32),
    ]


class MemMapParams(ctypes.Structure):
    """ucp_mem_map_params_t."""

    C_NAME = "ucp_mem_map_params_t"
    _fields_ = [
        ("field_mask", c_uint64),
        ("address", c_void_p),
        ("length", c_size_t),
        ("flags", c_uint32),
        ("prot", c_uint32),
        ("memory_type", c_int32),
        ("exported_memh_buffer", c_void_p),
    ]


class RequestParam(ctypes.Structure):
    """ucp_request_param_t."""

    C_NAME = "ucp_request_param_t"
    _fields_ = [
        ("op_attr_mask", c_uint32),
        ("flags", c_uint32),
        ("request", c_void_p),
        ("cb", c_void_p),
        ("datatype", c_uint64),
        ("user_data", c_void_p),
        ("reply_buffer", c_void_p),
        ("memory_type", c_int32),
        ("recv_info", c_void_p),
        ("memh", c_void_p),
        ("remote_datatype", c_uint64),
        ("remote", c_void_p),
        ("remote_count", c_size_t),
    ]


class AmHandlerParam(ctypes.Structure):
    """ucp_am_handler_param_t."""

    C_NAME = "ucp_am_handler_param_t"
    _fields_ = [
        ("field_mask", c_uint64),
        ("id", c_uint32),
        ("flags", c_uint32),
        ("cb", c_void_p),
        ("arg", c_void_p),
    ]


class AmRecvParam(ctypes.Structure):
    """ucp_am_recv_param_t."""

    C_NAME = "ucp_am_recv_param_t"
    _fields_ = [("recv_attr", c_uint64), ("reply_ep", c_uint64)]


STRUCTURES: tuple[type[ctypes.Structure], ...] = (
    Params,
    WorkerParams,
    EndpointParams,
    MemMapParams,
    RequestParam,
    AmHandlerParam,
    AmRecvParam,
)


def contiguous(element_bytes: int) -> int:
    """ucp_datatype_t of elements of this size that lie side by side."""
    return element_bytes << CONSTANTS["UCP_DATATYPE_SHIFT"]
