"""The port by which compiled code talks with one rank: a block of int64 words, passed by its address.

A port belongs to one thread at a time, like its worker. It holds the operands of the operation in
progress, so an operation that its caller gave up keeps its port: UCX may still write there.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from ...kernels.status import SLICE_NS
from . import abi
from .channels import Channels

# --- words
PORT_WORKER = 0
PORT_CONTROL = 1  # address of this rank's control page
PORT_SPIN_NS = 2  # a polite wait polls this long, then sleeps
PORT_CHANNELS = 3  # address of the words of all channels of the thread (channels.py)
PORT_REQUEST = 4  # of the operation in progress: 0 none, else a ucs_status_ptr_t
PORT_STAGE = 5  # what completing PORT_REQUEST means: see operations.py
PORT_ENDPOINT = 6  # of the operation in progress, for the flush that ends a put
PORT_UCX_STATUS = 7  # ucs_status_t of the last failure
PORT_VALUE = 8  # operand of an atomic
PORT_REPLY = 9  # in: the value that a compare-and-swap writes; out: the old value
PORT_RECV_TAG = 10  # ucp_tag_recv_info_t: tag and bytes of the last message received
PORT_RECV_BYTES = 11
PORT_NUM_SLEEPS = 12  # counters
PORT_NUM_YIELDS = 13
PORT_PLAIN = 16  # ucp_request_param_t without options
PORT_RECV = 32  # ... that reports tag and bytes to PORT_RECV_TAG
PORT_ATOMIC_U32 = 48  # ... of one u32 whose old value goes to PORT_REPLY
PORT_ATOMIC_U64 = 64
PORT_TAG = 80  # of the message that is waited for, to be claimed
PORT_MESSAGE = 81  # the message that was claimed: a ucp_tag_message_h
PORT_SLICE = 82  # longest stay of a wait in compiled code, in nanoseconds
PORT_WORDS = 88

PARAM_WORDS = PORT_ATOMIC_U64 - PORT_ATOMIC_U32
assert ctypes.sizeof(abi.RequestParam) <= 8 * PARAM_WORDS

# how to wait: like ucx_perftest, or asleep on the worker's event fd after PORT_SPIN_NS
POLLING, POLITE = 0, 1
DEFAULT_SPIN_NS = 15_000  # longer would burn the time slice that the peer needs on a shared core


class Port:
    """The words of a port to `rank` through `channels`; compiled code takes their `address`.

    `control` is the address of the control page whose changes end a wait: by default that of the channels.
    """

    def __init__(self, channels: Channels, rank: int, control: int = 0, spin_ns: int = DEFAULT_SPIN_NS):
        self.worker, self._channels = channels.of(rank), channels
        self.kept: Any = None  # owns the buffers of the operation in progress
        self._memory = np.zeros(PORT_WORDS + 8, np.int64)
        first = -(self._memory.ctypes.data // 8) % 8  # on a line of its own
        self.words = self._memory[first : first + PORT_WORDS]
        self.address = self.words.ctypes.data
        self.words[PORT_WORKER] = self.worker.handle
        self.words[PORT_CONTROL] = control or channels.control
        self.words[PORT_SPIN_NS] = spin_ns
        self.words[PORT_CHANNELS] = channels.address
        self.words[PORT_SLICE] = SLICE_NS
        self._write_param(PORT_PLAIN, abi.RequestParam())
        self._write_param(
            PORT_RECV, self._param("UCP_OP_ATTR_FIELD_RECV_INFO", recv_info=self._word(PORT_RECV_TAG))
        )
        for param, element_bytes in ((PORT_ATOMIC_U32, 4), (PORT_ATOMIC_U64, 8)):
            fields = {"datatype": abi.contiguous(element_bytes), "reply_buffer": self._word(PORT_REPLY)}
            mask = ("UCP_OP_ATTR_FIELD_DATATYPE", "UCP_OP_ATTR_FIELD_REPLY_BUFFER")
            self._write_param(param, self._param(*mask, **fields))

    def _word(self, index: int) -> int:
        return self.address + 8 * index

    @staticmethod
    def _param(*mask: str, **fields: int) -> abi.RequestParam:
        bits = sum(abi.CONSTANTS[name] for name in mask)
        return abi.RequestParam(op_attr_mask=bits, **fields)

    def _write_param(self, index: int, param: abi.RequestParam) -> None:
        image = bytes(param).ljust(8 * PARAM_WORDS, b"\0")
        self.words[index : index + PARAM_WORDS] = np.frombuffer(image, np.int64)
