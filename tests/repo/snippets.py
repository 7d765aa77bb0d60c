"""What the documentation shows: fenced snippets, the commands in them, and every flag it mentions."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]

PROGRAMS = (
    "baton", "curl", "docker", "git", "helm", "kubectl", "locust", "make", "pip", "pytest", "python",
    "python3", "uv", "uvx",
)  # fmt: skip
"""A snippet without a language that begins with one of them is a shell's, and not a drawing."""
SHELL = {"bash", "console", "sh", "shell"}
OUTPUT = {"json", "text"}
"""Languages of a snippet that shows what the one before it prints."""
VARIABLE = re.compile(r"\b[A-Z][A-Z_]{2,}\b")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*")


@dataclass(frozen=True)
class Snippet:
    page: str
    line: int
    language: str
    text: str
    prints: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    snippet: Snippet
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)

    @property
    def program(self) -> str:
        words = [word for word in self.words if not re.match(r"\w+=", word)]
        return words[0].rpartition("/")[2]

    @property
    def has_gaps(self) -> bool:
        """Whether the reader has to fill something in, such as MODEL."""
        bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", self.text.partition(" #")[0])
        return bool(VARIABLE.search(re.sub(r"\b\w+=\S*", "", bare)))

    def __str__(self) -> str:
        return f"{self.snippet}: {self.text}"


def snippets(page: Path) -> list[Snippet]:
    found: list[Snippet] = []
    lines, language, begun = page.read_text(encoding="utf-8").splitlines(), "", 0
    body: list[str] | None = None
    for number, line in enumerate(lines, start=1):
        if body is None and line.startswith("```"):
            body, language, begun = [], line[3:].strip(), number
        elif body is not None and line.startswith("```"):
            text = "\n".join(body)
            if language in OUTPUT and found and begun - found[-1].line - found[-1].text.count("\n") <= 5:
                last = found.pop()
                found.append(Snippet(last.page, last.line, last.language, last.text, text))
            else:
                found.append(Snippet(page.relative_to(ROOT).as_posix(), begun, language, text))
            body = None
        elif body is not None:
            body.append(line)
    assert body is None, f"{page}: the snippet of line {begun} never ends"
    return found


def commands(snippet: Snippet) -> list[Command]:
    """Lines that belong together because of a backslash or a quote are one command."""
    if snippet.language and snippet.language not in SHELL:
        return []
    first = snippet.text.lstrip().removeprefix("$ ").split(" ")[0].rpartition("/")[2]
    if not snippet.language and first not in PROGRAMS:
        return []
    found, pending = [], ""
    for line in snippet.text.splitlines():
        pending = f"{pending}\n{line}" if pending else line.removeprefix("$ ")
        if pending.endswith("\\") or not pending.strip():
            continue
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:
            continue
        if words:
            found.append(Command(snippet, pending))
        pending = ""
    assert not pending.strip(), f"{snippet}: {pending!r} does not end"
    return found


def inline(page: Path) -> list[str]:
    """What stands between backticks in the text, outside of snippets."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text)]


def links(page: Path) -> list[str]:
    """Relative ones, without their anchors."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    return [target for target in found if target and "://" not in target and not target.startswith("mailto:")]
