"""A pod as its users meet it: `python -m baton.decode` in a process of its own, on a real socket."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.spawned import Spawned

import openai
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


@contextmanager
def templated(folder: Path, template: str) -> Iterator[openai.OpenAI]:
    """A client of a pod whose bundled model, called m, has another chat template; its files go there."""
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(Path(model_path()) / name, folder)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": template}))
    with closing(Pod("--names", "m", "--engine.tokenizer", str(folder))) as pod:
        pod.await_line("ready")
        with openai.OpenAI(base_url=f"{pod.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
            yield client
