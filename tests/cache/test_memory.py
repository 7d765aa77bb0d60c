"""What a container may use, read from file trees as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

from baton.cache.memory import free_host_bytes

MIB = 2**20


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def machine(root: Path, available_mib: int, group: str) -> Path:
    meminfo = (
        f"MemTotal:       99999999 kB\nMemAvailable:   {available_mib * 1024} kB\nHugePages_Total:       0\n"
    )
    return write(root, {"proc/meminfo": meminfo, "proc/self/cgroup": group})


def test_a_container_under_version_2_has_its_limit_less_what_cannot_be_reclaimed(tmp_path: Path) -> None:
    root = machine(tmp_path, 64_000, "0::/\n")
    write(
        root,
        {
            "sys/fs/cgroup/memory.max": f"{1000 * MIB}\n",
            "sys/fs/cgroup/memory.current": f"{700 * MIB}\n",
            "sys/fs/cgroup/memory.stat": f"anon {200 * MIB}\ninactive_file {450 * MIB}\n",
        },
    )
    assert free_host_bytes(root) == 750 * MIB


def test_the_tightest_of_all_enclosing_groups_counts(tmp_path: Path) -> None:
    root = machine(tmp_path, 64_000, "0::/pods/one/main\n")
    limits = {"pods": "max", "pods/one": str(500 * MIB), "pods/one/main": str(900 * MIB)}
    for group, limit in limits.items():
        write(
            root,
            {
                f"sys/fs/cgroup/{group}/memory.max": f"{limit}\n",
                f"sys/fs/cgroup/{group}/memory.current": f"{100 * MIB}\n",
            },
        )
    assert free_host_bytes(root) == 400 * MIB


def test_a_container_under_version_1_is_found_where_its_mount_begins(tmp_path: Path) -> None:
    """Its own path is the host's, which its mount does not have."""
    root = machine(tmp_path, 64_000, "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    write(
        root,
        {
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{300 * MIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{100 * MIB}\n",
            "sys/fs/cgroup/memory/memory.stat": f"inactive_file 0\ntotal_inactive_file {10 * MIB}\n",
        },
    )
    assert free_host_bytes(root) == 210 * MIB


def test_without_a_limit_the_machine_counts(tmp_path: Path) -> None:
    root = machine(tmp_path, 640, "0::/\n")
    write(root, {"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "5\n"})
    assert free_host_bytes(root) == 640 * MIB


def test_a_group_that_is_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    root = machine(tmp_path, 640, "0::/\n")
    write(root, {"sys/fs/cgroup/memory.max": "100\n", "sys/fs/cgroup/memory.current": "200\n"})
    assert free_host_bytes(root) == 0


def test_where_the_kernel_writes_no_such_files_the_installed_memory_counts(tmp_path: Path) -> None:
    assert free_host_bytes(tmp_path) > 2**26


def test_this_machine_has_memory() -> None:
    assert 0 < free_host_bytes() < 2**50
