"""What is read off a settings class."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from baton.core.settings.schema import REQUIRED, field_docs, leaves


@dataclass(frozen=True, slots=True)
class Inner:
    timeout_s: float = 1.0
    """Of one attempt.

    Not of all of them."""
    undocumented: int = 2


@dataclass(frozen=True, slots=True)
class Outer:
    """The class's own words belong to no field."""

    name: str
    """Who."""
    inner: Inner = field(default_factory=lambda: Inner(undocumented=5))


@dataclass(frozen=True)
class Grown(Outer):
    late: int = 0
    """Added below."""


@dataclass(frozen=True)
class TakesTheHelpFlag:
    help: str = ""


@dataclass(frozen=True)
class NobodyCouldSpellIt:
    a__b: str = ""


@dataclass(frozen=True)
class SectionThatMayBeAbsent:
    inner: Inner | None = None


def test_leaves_in_order_with_defaults_docs_units_and_names() -> None:
    name, timeout, undocumented = leaves(Outer)
    assert (name.path, name.default, name.doc, name.unit) == ("name", REQUIRED, "Who.", "")
    assert (timeout.path, timeout.default, timeout.unit) == ("inner.timeout_s", 1.0, "seconds")
    assert (timeout.flag, timeout.variable("BATON")) == ("--inner.timeout_s", "BATON_INNER__TIMEOUT_S")
    assert undocumented.default == 5


def test_docs_are_the_strings_beneath_fields_and_are_inherited() -> None:
    assert field_docs(Inner) == {"timeout_s": "Of one attempt.\n\nNot of all of them."}
    assert field_docs(Grown) == {"name": "Who.", "late": "Added below."}


def test_a_class_without_source_has_no_docs() -> None:
    space: dict[str, type] = {}
    exec("from dataclasses import dataclass\n@dataclass\nclass Made:\n    x: int = 1\n    'doc'\n", space)
    assert field_docs(space["Made"]) == {}
    assert [leaf.path for leaf in leaves(space["Made"])] == ["x"]


@pytest.mark.parametrize("schema", [TakesTheHelpFlag, NobodyCouldSpellIt, SectionThatMayBeAbsent])
def test_classes_that_no_source_could_fill_are_refused(schema: type) -> None:
    with pytest.raises(AssertionError, match=schema.__name__):
        list(leaves(schema))
