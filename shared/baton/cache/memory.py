"""How much host memory this process may still use, as a container's limit allows.

Read by `baton.cache.pool` when a pool on the CPU is sized. The kernel's "available" speaks of the
whole machine; inside a container the limits of the control groups, version 1 or 2, are what kills.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_FILES = (
    # mount point, limit, usage, and how memory.stat calls page cache that the kernel would reclaim
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_host_bytes(root: Path = Path("/")) -> int:
    """The least of what the machine has available and what each enclosing control group leaves."""
    return max(0, min(_available(root), *_left_in_groups(root)))


def _available(root: Path) -> int:
    for key, value in _numbers(root / "proc/meminfo"):
        if key == "MemAvailable:":
            return value * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_in_groups(root: Path) -> Iterator[int]:
    """Bytes left under each limit that holds for this process; at least one number, however large."""
    yield 2**63
    groups = _own_groups(root)
    for mount, limit_name, usage_name, reclaimable in _FILES:
        for group in groups:
            folder = root / mount / group
            limit = _number(folder / limit_name)
            usage = _number(folder / usage_name)
            if limit is not None and usage is not None:
                # Weights that were just read fill the page cache; it is charged here and given up at need.
                yield limit - usage + dict(_numbers(folder / "memory.stat")).get(reclaimable, 0)


def _own_groups(root: Path) -> list[Path]:
    """This process's control groups and all above them, relative to a mount point; the mount itself too.

    A container may see a path that its mount does not have: then the mount itself is its group.
    """
    found = {Path(): None}
    for line in _lines(root / "proc/self/cgroup"):
        path = Path(line.split(":", 2)[-1].lstrip("/"))
        found.update(dict.fromkeys((path, *path.parents)))
    return list(found)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def _number(file: Path) -> int | None:
    """The number in a file; None where there is no file or no limit ("max")."""
    lines = _lines(file)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def _numbers(file: Path) -> Iterator[tuple[str, int]]:
    for line in _lines(file):
        key, *rest = line.split()
        if rest and rest[0].isdigit():
            yield key, int(rest[0])
