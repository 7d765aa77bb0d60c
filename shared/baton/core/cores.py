"""How many processor cores this process may use.

Threads that outnumber them wait for each other: a container's limit is enforced by stopping all of its
threads for the rest of a period, and `os.cpu_count` tells of the machine, not of the limit.
"""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable(root: Path = Path("/")) -> int:
    """Of those this process may run on, as many as its container's limit lets it keep busy; at least one.
    `root` is where the kernel's files are looked for."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _limit(root)
    return allowed if limit is None else max(1, min(allowed, math.ceil(limit)))


def _limit(root: Path) -> float | None:
    """The least that any control group around this process leaves it, in cores; None if none does."""
    found = [limit for folder in _folders(root) if (limit := _of(folder)) is not None]
    return min(found, default=None)


def _folders(root: Path) -> list[Path]:
    """This process's control group and those around it, of either version."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    mount, folders = root / "sys/fs/cgroup", []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        tree = mount / "cpu" if controllers else mount
        inner = Path(path.lstrip("/"))
        folders += [tree / one for one in (inner, *inner.parents)]
    return folders


def _of(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return int(quota) / int(period) if quota.isdigit() else None  # "max" and -1 are no limit
    except (OSError, ValueError):
        return None
