"""The size report: finds what is too long, and the project itself is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _report(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / ".ci" / "size.py"), str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_project_keeps_its_limits() -> None:
    done = _report(ROOT)
    assert done.returncode == 0, done.stderr
    assert "baton.core" in done.stdout


def test_long_modules_and_functions_are_found(tmp_path: Path) -> None:
    package = tmp_path / "shared" / "baton" / "core"
    package.mkdir(parents=True)
    body = "    pass\n"
    (package / "fine.py").write_text(f"def short():\n{body * 59}" + "x = 1\n" * 440)
    (package / "long.py").write_text("x = 1\n" * 501)
    (package / "deep.py").write_text(
        f"class A:\n    async def long(self):\n{'    ' + body}" + f"    {body}" * 60
    )
    done = _report(tmp_path)
    assert done.returncode == 1
    assert [line.split(";")[0] for line in done.stderr.splitlines()] == [
        "size: shared/baton/core/deep.py:long: 62 lines, at most 60",
        "size: shared/baton/core/long.py: 501 lines, at most 500",
    ]
    assert done.stdout.splitlines()[1].split() == ["baton.core", "3", "1064"]
