from __future__ import annotations

from pathlib import Path

import pytest
from tests.tokens import checkpoints

from baton.tokens.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The directory of each kind of checkpoint."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: checkpoints.write(root / kind, kind) for kind in checkpoints.KINDS}


@pytest.fixture(scope="session")
def tokenizers(checkpoint: dict[str, Path]) -> dict[str, Tokenizer]:
    return {kind: Tokenizer.load(directory) for kind, directory in checkpoint.items()}
