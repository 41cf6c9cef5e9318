"""Host memory: what reserve, create, map, unmap and grow promise, and how each refuses."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import textwrap

import pytest

from umem.errors import AddressSpaceFull, AlignmentError, ConfigError, SegmentTooLarge, WorldError
from umem.memory.device import HOST, host

PAGE = host.granularity
BASE = 0x1F00_0000_0000  # below umem's own range, so that these tests can run beside a space
NUM_BYTES = 64 * PAGE


@pytest.fixture
def reserved():
    """A reserved range of NUM_BYTES at BASE, given back afterwards."""
    host.reserve(BASE, NUM_BYTES)
    yield BASE
    host.release_range(BASE, NUM_BYTES)


@pytest.fixture
def memory():
    """Descriptor of NUM_BYTES of new memory."""
    fd = host.create(NUM_BYTES, "umem-test")
    yield fd
    os.close(fd)


def word(address: int) -> ctypes.c_int64:
    return ctypes.c_int64.from_address(address)


def in_child(body: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run `body` in a fresh interpreter: for limits and signals that would harm this one."""
    code = "from umem.memory.device import host\nfrom umem import errors\nimport ctypes, os, resource\n"
    code += textwrap.dedent(body)
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout_s)


def test_two_mappings_of_one_memory_are_the_same_bytes(reserved, memory):
    half = NUM_BYTES // 2
    host.map(memory, BASE, PAGE)
    host.map(memory, BASE + half, PAGE)
    word(BASE + 8).value = 42
    assert word(BASE + half + 8).value == 42


def test_map_at_offset_shows_that_part_of_the_memory(reserved, memory):
    host.map(memory, BASE, NUM_BYTES)
    word(BASE + 3 * PAGE).value = 7
    host.map(memory, BASE, PAGE, 3 * PAGE)
    assert word(BASE).value == 7


def test_memory_lives_on_while_unmapped(reserved, memory):
    host.map(memory, BASE, NUM_BYTES)
    word(BASE).value = 5
    host.unmap_to_reserved(BASE, NUM_BYTES)
    host.map(memory, BASE, NUM_BYTES)
    assert word(BASE).value == 5


def test_reserving_a_range_in_use_is_refused_and_leaves_it_alone(reserved, memory):
    host.map(memory, BASE + PAGE, PAGE)
    word(BASE + PAGE).value = 9
    with pytest.raises(WorldError, match="in use"):
        host.reserve(BASE, NUM_BYTES)
    assert word(BASE + PAGE).value == 9


def test_unmapped_range_stays_reserved(reserved, memory):
    host.map(memory, BASE, NUM_BYTES)
    host.unmap_to_reserved(BASE, NUM_BYTES)
    with pytest.raises(WorldError, match="in use"):
        host.reserve(BASE, NUM_BYTES)


@pytest.mark.parametrize("state", ["reserved", "unmapped"])
def test_access_without_memory_faults(state):
    unmap = "host.map(fd, A, N); host.unmap_to_reserved(A, N)" if state == "unmapped" else ""
    result = in_child(f"""
        A, N = {BASE}, {NUM_BYTES}
        fd = host.create(N, "umem-test")
        host.reserve(A, N)
        {unmap}
        ctypes.c_int64.from_address(A).value
    """)
    assert result.returncode == -signal.SIGSEGV, result.stderr


def test_released_range_can_be_reserved_again():
    host.reserve(BASE, NUM_BYTES)
    host.release_range(BASE, NUM_BYTES)
    host.reserve(BASE, NUM_BYTES)
    host.release_range(BASE, NUM_BYTES)


def test_grown_memory_keeps_its_bytes_and_maps_behind_the_old_end(reserved):
    fd = host.create(PAGE, "umem-test")
    host.map(fd, BASE, PAGE)
    word(BASE).value = 11
    with pytest.raises(ConfigError, match="grow it first"):
        host.map(fd, BASE + PAGE, PAGE, PAGE)
    host.grow(fd, 2 * PAGE)
    host.map(fd, BASE + PAGE, PAGE, PAGE)
    word(BASE + PAGE).value = 12
    assert (word(BASE).value, word(BASE + PAGE).value) == (11, 12)
    os.close(fd)


def test_memory_never_shrinks(memory):
    with pytest.raises(ConfigError, match="cannot shrink"):
        host.grow(memory, PAGE)
    with pytest.raises(PermissionError):
        os.ftruncate(memory, PAGE)


def test_larger_than_memory_is_refused_with_both_sizes():
    too_large = (host.available_memory_bytes() + (1 << 30)) // PAGE * PAGE
    with pytest.raises(SegmentTooLarge, match="of memory are available"):
        host.create(too_large, "umem-test")


def test_growth_beyond_memory_is_refused_and_changes_nothing(memory, monkeypatch):
    monkeypatch.setattr(host, "available_memory_bytes", lambda: PAGE)
    with pytest.raises(SegmentTooLarge):
        host.grow(memory, NUM_BYTES + 2 * PAGE)
    assert os.fstat(memory).st_size == NUM_BYTES


def test_file_size_limit_is_an_error_not_a_signal():
    result = in_child(f"""
        resource.setrlimit(resource.RLIMIT_FSIZE, ({PAGE}, {PAGE}))
        try:
            host.create({NUM_BYTES}, "umem-test")
        except errors.SegmentTooLarge as error:
            print("refused:", error)
    """)
    assert "refused:" in result.stdout and "ulimit -f" in result.stdout, result


def test_virtual_memory_limit_names_the_way_out():
    result = in_child(f"""
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        try:
            host.reserve({BASE}, 1 << 40)
        except errors.AddressSpaceFull as error:
            print("refused:", error)
    """)
    assert "refused:" in result.stdout and "ulimit -v" in result.stdout, result


def test_too_many_mappings_names_the_kernel_setting(reserved, memory, monkeypatch):
    def full(*arguments):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(host, "_mmap", full)
    with pytest.raises(AddressSpaceFull, match="max_map_count"):
        host.map(memory, BASE, PAGE)


@pytest.mark.parametrize("kernel", ["populates", "too old to populate"])
def test_prefault_backs_every_page_and_keeps_what_is_there(reserved, memory, monkeypatch, kernel):
    if kernel != "populates":
        monkeypatch.setattr(host, "_MADV_POPULATE_WRITE", 99)
    host.map(memory, BASE, NUM_BYTES)
    word(BASE + PAGE).value = 13
    host.prefault(BASE, NUM_BYTES)
    assert word(BASE + PAGE).value == 13
    assert os.fstat(memory).st_blocks * 512 >= NUM_BYTES


def test_prefault_of_addresses_without_memory_is_an_error(reserved):
    with pytest.raises((SegmentTooLarge, WorldError)):
        host.prefault(BASE, NUM_BYTES)


def test_huge_page_advice_says_what_the_kernel_will_do(reserved, memory):
    host.map(memory, BASE, NUM_BYTES)
    assert host.advise_huge(BASE, NUM_BYTES) == host.huge_pages_possible()


@pytest.mark.parametrize("call", [host.reserve, host.unmap_to_reserved, host.release_range, host.prefault])
def test_misaligned_ranges_are_refused(call):
    with pytest.raises(AlignmentError):
        call(BASE + 8, PAGE)
    with pytest.raises(ConfigError, match="page size"):
        call(BASE, PAGE + 1)
    with pytest.raises(ConfigError, match="page size"):
        call(BASE, 0)


def test_descriptor_is_closed_on_exec(memory):
    assert not os.get_inheritable(memory)


def test_pointer_and_address_are_the_same_number_on_the_host():
    assert HOST.pointer(BASE) == BASE and HOST.address(BASE) == BASE


def test_view_is_the_memory_itself(reserved, memory):
    host.map(memory, BASE, NUM_BYTES)
    seen = host.view(BASE + PAGE, 16)
    seen[8] = 77
    assert word(BASE + PAGE + 8).value == 77
    assert (seen.dtype, seen.shape, seen.ctypes.data) == ("uint8", (16,), BASE + PAGE)


def test_nothing_is_left_in_dev_shm_by_memory(memory):
    assert not [name for name in os.listdir("/dev/shm") if "umem-test" in name]
    assert resource.getpagesize() == PAGE
