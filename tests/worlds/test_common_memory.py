"""Where members of a team meet, from what their processors reach: plain data, the same at all of them."""

from __future__ import annotations

import pytest

from umem.collectives.common_memory import CommonMemory, common_memory_of, side_of
from umem.errors import NotMappable
from umem.kernels.collective.layout import GPU_HOME
from umem.kernels.page.control import REACH_KINDS

DEVICE, HOST, META = 1, 2, 4
ALL = DEVICE | HOST | META


def test_each_rank_tells_of_its_own_processor():
    words = [ALL << REACH_KINDS | HOST, META]
    assert side_of(words, is_gpu=True) == [ALL, 0]
    assert side_of(words, is_gpu=False) == [HOST, META]


def test_gpus_that_are_peers_meet_in_their_own_memory():
    common = common_memory_of({0: [ALL, ALL, HOST], 1: [ALL, ALL, ALL]}, frozenset({0, 1}))
    assert common.home == "local"
    assert common.reach == (ALL | GPU_HOME, ALL | GPU_HOME, HOST)


@pytest.mark.parametrize("gpus", [{0}, {0, 1}])
def test_others_meet_in_host_memory(gpus):
    """A CPU that reaches no memory of a GPU; GPUs that are no peers."""
    told = {0: [ALL, HOST], 1: [HOST, ALL]}
    common = common_memory_of(told, frozenset(gpus))
    assert isinstance(common, CommonMemory) and common.home == "host"
    assert [word & ~GPU_HOME for word in common.reach] == [HOST, HOST]


def test_cpus_that_reach_all_meet_in_host_memory_where_a_gpu_is_among_them():
    assert common_memory_of({0: [ALL, ALL], 1: [ALL, ALL]}, frozenset({1})).home == "host"


def test_where_there_is_no_such_memory_all_hear_of_it():
    with pytest.raises(NotMappable, match="that of rank 1 from rank 0"):
        common_memory_of({0: [ALL, META], 1: [ALL, ALL]}, frozenset({0, 1}))
