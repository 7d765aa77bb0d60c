"""Recording a stretch of steps as a Chrome trace: what the device and the host did, and when.

Off unless a path is set. Recording slows the host down, so it skips the beginning and stops early.
"""

from __future__ import annotations

from typing import Any

import torch

RECORDED = 24
"""Steps."""
WARMED = 4
"""Steps before them in which the profiler runs already, because its own first ones are slow."""


class Profile:
    def __init__(self, path: str, first: int) -> None:
        """`path`: where the trace is written, empty for none; `first`: the first step recorded."""
        self._profiler: Any = None
        self._path = path
        if path:
            self._profiler = torch.profiler.profile(
                schedule=torch.profiler.schedule(
                    wait=max(0, first - WARMED), warmup=WARMED, active=RECORDED, repeat=1
                ),
                on_trace_ready=self._write,
            )
            self._profiler.start()

    def step(self) -> None:
        """One engine step has been launched."""
        if self._profiler is not None:
            self._profiler.step()

    def _write(self, profiler: Any) -> None:
        profiler.export_chrome_trace(self._path)
        table = profiler.key_averages().table(sort_by="self_device_time_total", row_limit=40)
        with open(self._path + ".txt", "w") as out:
            out.write(table)
