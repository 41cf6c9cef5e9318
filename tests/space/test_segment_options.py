"""What a user says of the segments: their size, pages backed at the start, huge pages."""

from __future__ import annotations

from pathlib import Path

import pytest

import umem
from umem import limits
from umem.errors import SegmentTooLarge
from umem.memory.device import host
from umem.units import MIB, format_size

SEGMENT = 32 * MIB
PRINT_WISHES = """
    import umem
    with umem.init() as space:
        print(space.world.spec.prefault, space.world.spec.huge_pages)
"""


def mappings(address: int, num_bytes: int) -> list[dict[str, str]]:
    """Fields of /proc/self/smaps of the mappings that begin in [address, address + num_bytes)."""
    found: list[dict[str, str]] = []
    wanted = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first:
            wanted = address <= int(first.partition("-")[0], 16) < address + num_bytes
            if wanted:
                found.append({})
        elif wanted:
            found[-1][first.rstrip(":")] = rest.strip()
    return found


def backed(space):
    """Bytes of this rank's own memory that have a page behind them."""
    own = [fields for region in space.segments.regions for fields in mappings(*region)]
    return sum(int(fields["Rss"].split()[0]) << 10 for fields in own)


def flags(space):
    """Whether each mapping of this rank's own memory asks for huge pages."""
    own = [fields for region in space.segments.regions for fields in mappings(*region)]
    return ["hg" in fields["VmFlags"].split() for fields in own]


def test_prefault_backs_all_of_a_ranks_own_memory():
    launch = {"ranks": 2, "segment": SEGMENT, "results": "all"}
    wanted = SEGMENT + SEGMENT // 4  # device and host segment
    assert umem.launch(backed, **launch, prefault=True) == [wanted] * 2
    assert all(num_bytes < wanted // 2 for num_bytes in umem.launch(backed, **launch))


@pytest.mark.parametrize("option", ["--prefault", "--huge-pages"])
def test_the_command_has_the_same_options(run_script, option):
    done = run_script(PRINT_WISHES, "-n", 1, "--segment", "32M", option, for_space=True)
    assert done.stdout.split()[-2:] == [str(option == "--prefault"), str(option == "--huge-pages")], (
        done.stderr
    )


def test_huge_pages_are_asked_for_behind_all_of_a_ranks_own_memory():
    if not host.huge_pages_possible():
        pytest.skip("the kernel has huge pages of shared memory switched off: shmem_enabled is never or deny")
    launch = {"ranks": 1, "segment": SEGMENT}
    asked = umem.launch(flags, **launch, huge_pages=True)
    assert asked and all(asked)
    assert not any(umem.launch(flags, **launch))


def test_segments_larger_than_memory_are_refused_with_a_size_that_fits(run_script):
    total = limits.total_memory_bytes()
    with pytest.raises(SegmentTooLarge, match="this machine has") as refusal:
        umem.launch(backed, ranks=2, segment=total)
    assert format_size(total) in str(refusal.value) and "use --segment" in str(refusal.value)
    done = run_script("import umem; umem.init()", "-n", 2, "--segment", f"{total >> 30}G", for_space=True)
    assert done.returncode == 1 and "use --segment" in done.stderr


def add_in_striped_memory(space):
    word = space.shared("a word", 1, "int64", home="striped")
    space.fetch_add(word.address, 1)
    space.barrier()
    return space.load(word.address, "int64")


def test_a_world_needs_no_host_memory_of_its_own(run_world, monkeypatch):
    monkeypatch.setenv("UMEM_HOST_SEGMENT", "0")
    assert run_world(add_in_striped_memory, segment="32M") == [2, 2]
