"""Images are built with pinned libraries: each that an extra asks for stands in services/constraints.txt."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = dict(
    line.split("==")
    for line in (ROOT / "services" / "constraints.txt").read_text().splitlines()
    if "==" in line
)
ELSEWHERE = {"baton", "torch", "flashinfer-python"}
"""torch is pinned in the Dockerfile, by device; the GPU's libraries go with the CUDA of their base."""


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!;~ ]", text)[0]).lower()


@pytest.mark.parametrize("extra", ["router", "engine", "cuda"])
def test_every_library_of_an_image_is_pinned(extra: str) -> None:
    pinned = {_name(name) for name in PINNED}
    asked = {_name(one) for one in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]]}
    assert asked - ELSEWHERE - pinned == set()


def test_the_dockerfile_s_torch_is_the_one_that_is_tested() -> None:
    tested = re.search(r"^TORCH \?= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    shipped = re.findall(
        r"^ARG TORCH=([^+\n]+)", (ROOT / "services" / "Dockerfile").read_text(), re.MULTILINE
    )
    assert tested and set(shipped) == {tested[1]}


def test_every_base_can_be_named_by_digest() -> None:
    bases = re.findall(r"^FROM (\S+)", (ROOT / "services" / "Dockerfile").read_text(), re.MULTILINE)
    stages = set(
        re.findall(r"^FROM \S+ AS (\S+)", (ROOT / "services" / "Dockerfile").read_text(), re.MULTILINE)
    )
    assert {base for base in bases if base not in stages} == {"${BASE}", "${CUDA_BASE}"}
