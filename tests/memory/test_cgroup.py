"""Memory limits of containers, read from trees of files as the kernel shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from umem import limits

MIB = 1 << 20


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_version_2_container_that_is_its_own_root(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": f"{100 * MIB}\n",
            "sys/fs/cgroup/memory.current": f"{70 * MIB}\n",
            "sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {10 * MIB}\nactive_file {20 * MIB}\n",
        },
    )
    assert limits.memory_limits(root) == [limits.MemoryLimit(100 * MIB, 60 * MIB)]


def test_limit_of_a_group_above_holds_too(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user.slice/job\n",
            "sys/fs/cgroup/user.slice/memory.max": f"{50 * MIB}\n",
            "sys/fs/cgroup/user.slice/memory.current": f"{20 * MIB}\n",
            "sys/fs/cgroup/user.slice/job/memory.max": "max\n",
        },
    )
    assert limits.memory_limits(root) == [limits.MemoryLimit(50 * MIB, 30 * MIB)]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(f"{40 * MIB}", [limits.MemoryLimit(40 * MIB, 35 * MIB)]), ("9223372036854771712", [])],
)
def test_version_1_where_a_huge_number_means_no_limit(tmp_path, limit, expected):
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:devices:/x\n4:memory:/docker/abc\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": limit + "\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{9 * MIB}\n",
            "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {4 * MIB}\n",
        },
    )
    assert limits.memory_limits(root) == expected


def test_full_group_leaves_nothing_and_never_less(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "1000\n",
            "sys/fs/cgroup/memory.current": "1500\n",
        },
    )
    assert limits.memory_limits(root) == [limits.MemoryLimit(1000, 0)]


def test_machine_without_control_groups_has_no_limit(tmp_path):
    assert limits.memory_limits(tmp_path) == []


def test_the_tightest_limit_decides_what_is_available(monkeypatch):
    found = [limits.MemoryLimit(90 * MIB, 8 * MIB), limits.MemoryLimit(50 * MIB, 20 * MIB)]
    monkeypatch.setattr(limits, "memory_limits", lambda: found)
    assert limits.available_memory_bytes() == 8 * MIB
    assert limits.total_memory_bytes() == 50 * MIB


def test_this_machine_has_memory():
    assert 0 < limits.available_memory_bytes() <= limits.total_memory_bytes()
