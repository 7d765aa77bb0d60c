"""A pod as its users meet it: `python -m baton.decode` in a process of its own, on a real socket."""

from __future__ import annotations

from pathlib import Path

from tests.spawned import Spawned

from baton.tiny import model_path


class Pod(Spawned):
    """One running pod, with the model that ships with Baton."""

    def __init__(self, *flags: str, service: str = "decode") -> None:
        words = ["--engine.model", str(model_path())]
        words += ["--role", "unified"] if service == "decode" and "--role" not in flags else []
        words += ["--http.host", "127.0.0.1", "--http.port", "0"]
        super().__init__(service, *words, "--engine.pages", "1024", "--engine.threads", "1", *flags)

    def ranks(self) -> list[int]:
        """Process ids of its engine's ranks."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                words = (stat.parent / "cmdline").read_text()
            except OSError:
                continue
            if int(fields[1]) == self.process.pid and "baton.engine.process" in words:
                found.append(int(stat.parent.name))
        return found
