"""Finding a model's files. What the hub's client reads once from its environment runs in a process apart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from baton.core.errors import InvalidSetting
from baton.model import locate


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    assert locate(str(tmp_path)) == tmp_path.resolve()


@pytest.mark.parametrize("model", ["/no/such/model", "./nothing", "a/b/c"])
def test_a_path_that_is_no_directory_is_not_asked_of_the_hub(model: str) -> None:
    with pytest.raises(InvalidSetting, match="is not a directory"):
        locate(model)


OFFLINE = """
import sys
from baton.core.errors import InvalidSetting
from baton.model import locate
assert "torch" not in sys.modules
print(locate("org/cached"))
try:
    locate("org/absent")
except InvalidSetting as error:
    print(error)
"""


def test_without_a_network_the_cache_serves_and_the_error_is_clear(tmp_path: Path) -> None:
    commit = "a" * 40
    repository = tmp_path / "models--org--cached"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_CACHE": str(tmp_path),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found, error = done.stdout.splitlines()
    assert Path(found) == snapshot
    assert "org/absent" in error and "offline" in error
