"""An engine in this very process: what a rank builds, driven by hand; fast enough for many settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from baton.core.types import Request, SamplingParams
from baton.engine.build import Built, build
from baton.engine.config import EngineConfig
from baton.engine.headroom import Headroom
from baton.engine.loop import Engine
from baton.engine.sequence import Sequence as Running
from baton.engine.spec import RankSpec
from baton.protocol.engine import Update
from baton.tokens.identity import page_identities


class Careless(Headroom):
    """Admission that keeps no room for what is still to come, so that a small pool retracts over and over."""

    def tokens(self, sequences: Iterable[Running]) -> int:
        return 0


class Inline:
    def __init__(self, model: Path, **settings: Any) -> None:
        self.config = EngineConfig(
            model=str(model), **{"pages": 4096, "max_running": 64, "threads": 1, **settings}
        )
        spec = RankSpec(config=self.config, rank=0, inbox="", outbox="", followers=(), rendezvous="")
        self.built: Built = build(spec, lambda stage, done: None)
        self.engine = Engine(self.built.scheduler, self.built.runner, overlap=self.config.overlap)
        self._count = 0

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams | Sequence[SamplingParams],
        generated: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Update]]:
        """Every prompt's updates, all served together; `generated` is what each resumes from."""
        params = [sampling] * len(prompts) if isinstance(sampling, SamplingParams) else sampling
        first = self._count
        for i, (prompt, one) in enumerate(zip(prompts, params, strict=True)):
            asked = Request(
                id=str(self._count), token_ids=tuple(prompt), sampling=one,
                generated=tuple(generated[i]) if generated is not None else (),
                identities=page_identities(prompt, self.config.page_size),
            )  # fmt: skip
            self.engine.submit(asked)
            self._count += 1
        found: dict[str, list[Update]] = {str(i): [] for i in range(first, self._count)}
        while not self.engine.idle:
            for update in self.engine.step().updates:
                found[update.id].append(update)
        self.built.scheduler.check_integrity()
        return [found[str(i)] for i in range(first, self._count)]

    def tokens(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams | Sequence[SamplingParams],
        generated: Sequence[Sequence[int]] | None = None,
    ) -> list[list[int]]:
        told = self.generate(prompts, sampling, generated)
        return [[u.token for u in us if u.token is not None] for us in told]

    def close(self) -> None:
        self.engine.close()

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
