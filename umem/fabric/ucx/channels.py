"""A worker for each peer, so that each queue of messages has one sender.

Over shared memory UCX's senders share the receiver's queue: each takes the next place with a compare-and-swap, then
fills it, and the receiver reads place by place (UCX, mm_ep.c: uct_mm_ep_am_common_send). The place of a rank that is
killed between the two is never filled, and nothing behind it is ever read: all other senders to that queue would
hang. With a queue a sender a death stops the queue of the dead alone.

Over a network the kernel cuts a dead peer's stream off, and one worker serves all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ...kernels.build.compile import device_function
from ...kernels.intrinsics.scalar import load_i64, load_u16, store_i32, store_i64
from ...kernels.page.control import peer_is_dead
from .abi import UCS_OK
from .calls import worker_arm, worker_progress
from .context import Context, Worker

MAX_CHANNELS = 16  # a worker has 6 descriptors; in a larger world ranks share channels, and their fate
WAITS_PER_PROGRESS = 64

# --- words of all channels
CHANNELS_NUM_CHANNELS = 0
CHANNELS_NUM_RANKS = 1  # rank r has channel r % CHANNELS_NUM_CHANNELS
CHANNELS_CONTROL = 2  # address of this rank's control page
CHANNELS_WORKER_OF_RANK = 3  # address of a word a rank: the handle of its worker
CHANNELS_POLL_FDS = 4  # address of a pollfd a channel
CHANNELS_NUM_WAITS = 5  # of the thread
# whose turn it is, where several threads use the channels: turns.py
CHANNELS_NEXT_TURN = 6  # the ticket that the next one to ask gets
CHANNELS_TURN = 7  # the ticket whose turn it is
CHANNELS_HAS_NEWS = 8  # 1 once a channel did some work in this turn
CHANNELS_IS_CLOSED = 9
CHANNELS_POLLER = 10  # the worker of the thread that polls for all, or 0
CHANNELS_NUM_SLEEPERS = 11
CHANNELS_EVENTS = 12  # a u32 on which threads sleep while another one polls
CHANNELS_FAILURE = 13  # ucs_status_t of the last worker that could not be armed
CHANNEL = 16  # CHANNEL_WORDS words a channel:
CHANNEL_WORKER = 0  # the handle of its worker
CHANNEL_IS_ARMED = 1  # 1: its event fd is readable, or will be once something comes: until the next arm
CHANNEL_IS_OVER = 2  # 1: only dead ranks sent through it, and all that they had sent is read
CHANNEL_WORDS = 4

_LINE_WORDS = 8  # of the processor's lines
POLL_IN = 1
POLL_FD_WORDS, POLL_FD_HALVES = 2, 4  # 4 and 2 bytes each
REVENTS = 3  # the half that the kernel fills


class Channels:
    """The workers of one thread of a rank; compiled code takes the `address` of their words.

    `control` is the address of this rank's control page: channels of ranks that are dead by it are no longer used.
    """

    def __init__(self, context: Context, num_ranks: int, num_channels: int, control: int):
        self.control = control
        self.workers = [context.worker() for _ in range(num_channels)]
        self.event_fds = [worker.event_fd for worker in self.workers]
        self._of_rank = np.array([self.of(rank).handle for rank in range(num_ranks)], np.int64)
        self._poll_fds = np.array([fd | POLL_IN << 32 for fd in self.event_fds], np.int64)
        num_words = CHANNEL + CHANNEL_WORDS * num_channels
        self._memory = np.zeros(num_words + 2 * _LINE_WORDS, np.int64)
        # On lines of its own: another thread has the next ones.
        first = -(self._memory.ctypes.data // 8) % _LINE_WORDS
        words = self._memory[first : first + num_words]
        words[CHANNELS_NUM_CHANNELS], words[CHANNELS_NUM_RANKS] = num_channels, num_ranks
        words[CHANNELS_CONTROL] = control
        words[CHANNELS_WORKER_OF_RANK] = self._of_rank.ctypes.data
        words[CHANNELS_POLL_FDS] = self._poll_fds.ctypes.data
        words[CHANNEL + CHANNEL_WORKER :: CHANNEL_WORDS] = [worker.handle for worker in self.workers]
        self.words, self.address = words, words.ctypes.data

    def index(self, rank: int) -> int:
        """The number of the channel to `rank`; `rank` uses the same rule for this one."""
        return rank % len(self.workers)

    def of(self, rank: int) -> Worker:
        """The worker that talks with `rank`."""
        return self.workers[self.index(rank)]

    def set_handler(self, message_id: int, callback: int, argument: int, keeps_data: bool = False) -> None:
        """`Worker.set_handler`, of every channel."""
        for worker in self.workers:
            worker.set_handler(message_id, callback, argument, keeps_data)


def num_channels(environment: Mapping[str, str], num_ranks: int) -> int:
    """Channels of a thread in a world of `num_ranks` whose UCX has the variables `environment`."""
    return min(num_ranks, MAX_CHANNELS) if has_shared_memory(environment) else 1


def has_shared_memory(environment: Mapping[str, str]) -> bool:
    """Whether UCX may use shared memory, not only networks."""
    return not set(environment.get("UCX_TLS", "all").split(",")) <= {"tcp", "self"}


def packed_addresses(channels: Channels) -> list[str]:
    """The packed address of each channel's worker, for peers."""
    return [worker.address.hex() for worker in channels.workers]


def address_for(packed: Iterable[str], rank: int) -> bytes:
    """The one of a peer's packed addresses that `rank` uses."""
    addresses = list(packed)
    return bytes.fromhex(addresses[rank % len(addresses)])


@device_function
def worker_of(channels, rank):
    """The worker that talks with `rank`."""
    return load_i64(load_i64(channels, CHANNELS_WORKER_OF_RANK), rank)


@device_function
def has_only_dead(channels, channel):
    """True where every rank of the channel is dead; then all their messages have arrived."""
    rank = channel
    while rank < load_i64(channels, CHANNELS_NUM_RANKS):
        if not peer_is_dead(load_i64(channels, CHANNELS_CONTROL), rank):
            return False
        rank += load_i64(channels, CHANNELS_NUM_CHANNELS)
    return True


@device_function
def progress_channel(channels, channel):
    """Progress one channel unless it is over; returns UCX's count. Messages of a dead rank are still delivered."""
    words = channels + (CHANNEL + channel * CHANNEL_WORDS) * 8
    if load_i64(words, CHANNEL_IS_OVER) != 0:
        return 0
    is_last = has_only_dead(channels, channel)
    num_done = worker_progress(load_i64(words, CHANNEL_WORKER))
    if num_done > 0:
        store_i64(words, CHANNEL_IS_ARMED, 0)
        store_i64(channels, CHANNELS_HAS_NEWS, 1)
    elif is_last:
        store_i64(words, CHANNEL_IS_OVER, 1)
    return num_done


@device_function
def progress_all(channels):
    """Progress all channels; returns UCX's count."""
    num_done = 0
    channel = 0
    while channel < load_i64(channels, CHANNELS_NUM_CHANNELS):
        num_done += progress_channel(channels, channel)
        channel += 1
    return num_done


@device_function
def begin_wait(channels):
    """Begin a wait for one channel. Every WAITS_PER_PROGRESS waits all channels are progressed, so that a thread that
    makes many short waits still receives from other ranks."""
    num_waits = load_i64(channels, CHANNELS_NUM_WAITS) + 1
    store_i64(channels, CHANNELS_NUM_WAITS, num_waits)
    if num_waits % WAITS_PER_PROGRESS == 0:
        progress_all(channels)


@device_function
def progress_news(channels, poll_fds):
    """Progress the channels for which poll had news and those that are not armed; returns UCX's count.

    Enough where the next poll comes soon. The other channels are cold: a look at one costs as much as answering a
    request.
    """
    num_done = 0
    channel = 0
    while channel < load_i64(channels, CHANNELS_NUM_CHANNELS):
        has_news = load_u16(poll_fds, channel * POLL_FD_HALVES + REVENTS) != 0
        if has_news or load_i64(channels, CHANNEL + channel * CHANNEL_WORDS + CHANNEL_IS_ARMED) == 0:
            num_done += progress_channel(channels, channel)
        channel += 1
    return num_done


@device_function
def disarm(channels, rank):
    """Mark the channel to `rank` as not armed: it has a send under way that only progress ends."""
    channel = rank % load_i64(channels, CHANNELS_NUM_CHANNELS)
    store_i64(channels, CHANNEL + channel * CHANNEL_WORDS + CHANNEL_IS_ARMED, 0)


@device_function
def arm_all(channels, poll_fds, own):
    """Arm every channel's event fd for messages from now on; returns UCX's status, OK where the thread may sleep.

    BUSY: a channel has news already, or unfinished sends. `poll_fds` is the address of a pollfd a channel; those of
    channels that are over become descriptors that poll ignores, for messages left in their queue would wake it for
    ever.

    Arming takes two system calls: so only the channels are armed again for which poll or `progress_channel` had news,
    and the worker `own` (0: none), which the caller drives itself: it counts as not armed for the next call.
    """
    code = UCS_OK
    channel = 0
    while channel < load_i64(channels, CHANNELS_NUM_CHANNELS) and code == UCS_OK:
        words = channels + (CHANNEL + channel * CHANNEL_WORDS) * 8
        worker = load_i64(words, CHANNEL_WORKER)
        has_news = load_u16(poll_fds, channel * POLL_FD_HALVES + REVENTS) != 0
        if load_i64(words, CHANNEL_IS_OVER) != 0:
            store_i32(poll_fds, channel * POLL_FD_WORDS, -1)
        elif has_news or worker == own or load_i64(words, CHANNEL_IS_ARMED) == 0:
            code = worker_arm(worker)
            store_i64(words, CHANNEL_IS_ARMED, 1 if code == UCS_OK and worker != own else 0)
        channel += 1
    return code
