"""Settings from all four places: their weight, their errors, and what is known about where they came from."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from baton.core.errors import InvalidSetting
from baton.core.settings import Loaded, from_command_line, load, secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    page_size: int = 16
    """Tokens of a page."""
    memory_share: float = 0.9
    """The part of the free memory that the pool takes."""
    policy: Literal["radix", "naive"] = "radix"

    def __post_init__(self) -> None:
        if self.page_size & (self.page_size - 1):
            raise InvalidSetting("page_size", f"must be a power of two, not {self.page_size}")
        if not 0 < self.memory_share <= 1:
            raise ValueError("memory_share must be above 0 and at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Redis:
    url: str = "redis://localhost"
    password: str = secret("")
    """For AUTH."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    port: int = 8000
    """Where HTTP is served."""
    cache: Cache = Cache(page_size=32)
    redis: Redis = field(default_factory=Redis)
    verbose: bool = False
    workers: tuple[str, ...] = ()
    deadline_s: float | None = None
    """How long a request may take. None for as long as it likes."""

    def __post_init__(self) -> None:
        if self.port == self.cache.page_size:
            raise InvalidSetting("cache.page_size", "must differ from the port")


@dataclass(frozen=True, slots=True, kw_only=True)
class Needy:
    model: str
    """What to serve."""


def _file(folder: Path, text: str, name: str = "baton.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def _error(**sources: object) -> str:
    with pytest.raises(InvalidSetting) as caught:
        load(Service, **sources)  # type: ignore[arg-type]
    return str(caught.value)


def test_defaults_are_the_class_s_and_a_section_s_default_goes_before_its_class_s() -> None:
    loaded = load(Service)
    assert loaded.settings == Service()
    assert loaded.settings.cache.page_size == 32
    assert set(loaded.origins.values()) == {"default"}


def test_each_source_goes_before_the_one_below_it(tmp_path: Path) -> None:
    file = _file(tmp_path, "port = 1\nverbose = true\n[cache]\npage_size = 8\nmemory_share = 0.5\n")
    environ = {"BATON_PORT": "2", "BATON_CACHE__PAGE_SIZE": "64", "HOME": "elsewhere"}
    loaded = load(Service, file=file, environ=environ, arguments=["--port", "3"])
    assert loaded.settings == Service(port=3, verbose=True, cache=Cache(page_size=64, memory_share=0.5))
    assert loaded.origins["port"] == "--port"
    assert loaded.origins["cache.page_size"] == "BATON_CACHE__PAGE_SIZE"
    assert loaded.origins["cache.memory_share"] == f"file {file}"
    assert loaded.origins["redis.url"] == "default"


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    tree = {"port": 9.0, "workers": ["a", "b"], "deadline_s": None, "cache": {"policy": "naive"}}
    toml = 'port = 9\nworkers = ["a", "b"]\ndeadline_s = "none"\ncache.policy = "naive"\n'
    from_json = load(Service, file=_file(tmp_path, json.dumps(tree), "baton.json")).settings
    assert from_json == load(Service, file=_file(tmp_path, toml)).settings
    assert from_json == Service(port=9, workers=("a", "b"), cache=Cache(page_size=32, policy="naive"))
    assert isinstance(from_json.port, int)


def test_flags_take_a_value_either_way_and_hyphens() -> None:
    words = ["--cache.page-size=4", "--workers", "a, b", "--verbose", "--deadline_s", "-1.5"]
    assert load(Service, arguments=words).settings == Service(
        cache=Cache(page_size=4), workers=("a", "b"), verbose=True, deadline_s=-1.5
    )
    assert load(Service, arguments=["--verbose", "off", "--port", "1"]).settings == Service(port=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixer:
    mixed: bool | Literal["auto"] = "auto"
    """Or by itself."""
    loud: bool = False
    """The same without."""


@pytest.mark.parametrize(
    ("words", "mixed"),
    [
        ("--mixed", True),
        ("--mixed --loud", True),
        ("--mixed auto", "auto"),
        ("--mixed no", False),
        ("", "auto"),
    ],
)
def test_a_flag_that_may_be_true_needs_no_value(words: str, mixed: object) -> None:
    assert load(Mixer, arguments=words.split()).settings.mixed == mixed


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"environ": {"BATON_CACHE__PAGE_SIEZ": "1"}}, "did you mean BATON_CACHE__PAGE_SIZE?"),
        ({"environ": {"BATON_PAGE_SIZE": "1"}}, "BATON_PAGE_SIZE: there is no such setting"),
        ({"arguments": ["--prot", "1"]}, "--prot: there is no such flag; did you mean --port?"),
        ({"arguments": ["--page_size", "1"]}, "did you mean --cache.page_size?"),
        ({"arguments": ["8000"]}, "8000: there is no such flag"),
        ({"arguments": ["--cache", "1"]}, "--cache: there is no such flag"),
        ({"arguments": ["--port"]}, "--port: needs a value"),
        ({"arguments": ["--port", "--verbose"]}, "--port: needs a value"),
        ({"arguments": ["--port", "1", "--port=2"]}, "--port: is given twice"),
        ({"arguments": ["--port", "many"]}, "port: must be an integer, not 'many' (--port)"),
        (
            {"environ": {"BATON_VERBOSE": "maybe"}},
            "verbose: must be true or false, not 'maybe' (BATON_VERBOSE)",
        ),
        ({"environ": {"BATON_CACHE__POLICY": "lru"}}, "cache.policy: must be one of radix, naive, not 'lru'"),
        (
            {"environ": {"BATON_CACHE__MEMORY_SHARE": "nan"}},
            "cache.memory_share: must be a number, not 'nan'",
        ),
    ],
)
def test_what_is_wrong_is_named(sources: dict[str, object], message: str) -> None:
    assert message in _error(**sources)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (
            "[cache]\npagesize = 1",
            "a.toml",
            "cache.pagesize: there is no such setting; did you mean cache.page_size?",
        ),
        ("[cahce]\npage_size = 1", "a.toml", "cahce: there is no such setting; did you mean cache?"),
        ("cache = 1", "a.toml", "cache: is a section, so must be a table"),
        ('port = "1"', "a.toml", "port: must be an integer, not '1'"),
        ("port = true", "a.toml", "port: must be an integer, not True"),
        ("port = 1.5", "a.toml", "port: must be an integer, not 1.5"),
        ("port = ", "a.toml", "is broken"),
        ("port: 1", "a.yaml", "must end in .toml or .json"),
        ('{"port": 1, "port": 2}', "a.json", "'port' is there twice"),
        ("[1]", "a.json", "must hold a JSON object"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, name: str, message: str) -> None:
    error = _error(file=_file(tmp_path, text, name))
    assert message in error
    assert name in error


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "cannot read" in _error(file=tmp_path / "absent.toml")


def test_a_section_s_own_rule_is_told_with_its_place_and_origin() -> None:
    error = _error(environ={"BATON_CACHE__PAGE_SIZE": "17"})
    assert error == "cache.page_size: must be a power of two, not 17 (BATON_CACHE__PAGE_SIZE)"
    assert _error(arguments=["--cache.memory_share", "2"]).startswith("cache: memory_share must be above 0")


def test_a_rule_across_sections_is_told_with_its_origin() -> None:
    assert _error(arguments=["--port", "32"]) == "cache.page_size: must differ from the port (default)"


def test_a_setting_without_default_must_be_set() -> None:
    with pytest.raises(InvalidSetting, match=r"model: is required; set BATON_MODEL, --model"):
        load(Needy)
    assert load(Needy, environ={"BATON_MODEL": "m"}).settings == Needy(model="m")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("BATON_PORT", "tcp://10.0.0.1:80"),
        ("BATON_ROUTER_PORT", "tcp://10.0.0.1:80"),
        ("BATON_ROUTER_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("BATON_ROUTER_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("BATON_ROUTER_SERVICE_HOST", "10.0.0.1"),
        ("BATON_ROUTER_SERVICE_PORT_HTTP", "80"),
    ],
)
def test_what_kubernetes_adds_for_services_is_no_setting(name: str, text: str) -> None:
    assert load(Service, environ={name: text}).settings == Service()


@pytest.mark.parametrize("name", ["BATON_API_KEY", "BATON_KEY_FILE"])
def test_what_commands_are_told_in_the_same_shell_is_no_setting(name: str) -> None:
    assert load(Service, environ={name: "sk-1"}).settings == Service()


def test_a_misspelt_port_is_not_taken_for_kubernetes() -> None:
    assert "did you mean BATON_PORT?" in _error(environ={"BATON_PROT": "80"})
    assert "BATON_ROUTER_PORT" in _error(environ={"BATON_ROUTER_PORT": "80"})


def test_another_prefix_is_another_world() -> None:
    environ = {"BATON_PORT": "1", "OTHER_PORT": "2"}
    assert load(Service, environ=environ, prefix="OTHER").settings.port == 2


def test_the_tree_travels_to_other_processes() -> None:
    loaded = load(Service, arguments=["--workers", "a"])
    assert pickle.loads(pickle.dumps(loaded.settings)) == loaded.settings


def _run(*words: str, **environ: str) -> tuple[Loaded[Service] | None, str]:
    out = io.StringIO()
    try:
        return from_command_line(Service, "baton-service", words, environ, out=out), out.getvalue()
    except SystemExit as stop:
        assert stop.code == 0
        return None, out.getvalue()


@pytest.mark.parametrize("form", ["apart", "joined", "variable"])
def test_the_command_line_names_the_file(tmp_path: Path, form: str) -> None:
    file = str(_file(tmp_path, "port = 7"))
    if form == "variable":
        loaded, _ = _run("--verbose", BATON_CONFIG=file)
    else:
        loaded, _ = _run(*(["--config", file] if form == "apart" else [f"--config={file}"]), "--verbose")
    assert loaded is not None
    assert loaded.settings == Service(port=7, verbose=True)


def test_config_needs_a_value() -> None:
    with pytest.raises(InvalidSetting, match="--config: needs a value"):
        _run("--config")


def test_help_shows_every_setting_with_doc_unit_and_default() -> None:
    loaded, text = _run("--help")
    assert loaded is None
    assert text.startswith("usage: baton-service ")
    assert "--cache.page_size (an integer; default 32)\n      Tokens of a page." in text
    assert "--deadline_s (a number or none, seconds; default none)" in text
    assert "BATON_SECTION__FIELD" in text


def test_explain_shows_values_and_origins_but_no_secret() -> None:
    loaded, text = _run("--explain", "--redis.password", "hunter2", BATON_PORT="9")
    assert loaded is None
    assert "port = 9    [BATON_PORT]\n    Where HTTP is served.\n" in text
    assert "an integer; default 8000; BATON_PORT, --port" in text
    assert "redis.password = (secret)    [--redis.password]" in text
    assert "hunter2" not in text


def test_a_secret_is_in_no_repr_and_no_error(tmp_path: Path) -> None:
    assert "hunter2" not in repr(load(Service, arguments=["--redis.password", "hunter2"]))
    error = _error(file=_file(tmp_path, "redis.password = 1234"))
    assert error.startswith("redis.password: must be text (file")
    assert "1234" not in error.replace(str(tmp_path), "")
