"""Collectives by messages in a compiled loop: the schedule of one operation of a team again and again."""

from __future__ import annotations

from umem.fabric.ucx.schedules import RUN_CURSOR, RUN_NUM_REQUESTS, go_on_with
from umem.fabric.ucx.turns import UCX_KERNELS
from umem.kernels.build.compile import cpu_kernel, device_function
from umem.kernels.build.variants import variant
from umem.kernels.intrinsics.scalar import store_i64
from umem.kernels.intrinsics.system import now_ns
from umem.kernels.status import AGAIN

from .touch import TOUCHED, touched_operations


@device_function
def do_schedule(run, epoch, end_ns):
    """The schedule that `run` is ready for, from its first row; tags may be the same, for messages come in order."""
    store_i64(run, RUN_CURSOR, 0)
    store_i64(run, RUN_NUM_REQUESTS, 0)
    code = go_on_with(run)
    while code == AGAIN and now_ns() < end_ns:
        code = go_on_with(run)
    return code


by_messages = cpu_kernel(TOUCHED, group=UCX_KERNELS)(
    variant(touched_operations, "by_messages", do_operation=do_schedule, meet=do_schedule)
)
