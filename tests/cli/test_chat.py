"""`baton chat`: what it asks, shows, remembers, and says when a server fails. Against a real HTTP server."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from tests.cli.scripted import Answer, Scripted, delta, events

from baton.cli.__main__ import main
from baton.cli.chat.client import Client, Sampling, Tally
from baton.cli.chat.shell import Shell, summary
from baton.core.errors import Failed, InvalidRequest, PeerLost, Refused

MODELS = Answer(b'{"data": [{"id": "tiny"}]}')
USAGE = {
    "choices": [],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
}
HELLO = Answer(events(delta("Hel"), delta("lo", finish_reason="stop"), USAGE))
CHAT = "/v1/chat/completions"


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted({"/v1/models": [MODELS], CHAT: [HELLO]}) as server:
        yield server


@pytest.fixture
def shell(server: Scripted) -> Iterator[Shell]:
    with Client(f"{server.url}/v1/", "secret", "", Sampling(temperature=0.0)) as client:
        yield Shell(client, "", io.StringIO(), paint=False)


def said(shell: Shell) -> str:
    out = shell._out
    assert isinstance(out, io.StringIO)
    return out.getvalue()


def test_one_question_one_answer(server: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "chat",
        "--url",
        server.url,
        "--api-key",
        "k",
        "--seed",
        "3",
        "--system",
        "Be brief.",
        "Hi",
        "you",
    ]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.startswith("Hello\n[2 tokens, ") and "4 of 9 prompt tokens cached" in out
    (path, body), headers = server.asked[-1], server.headers[-1]
    assert path == CHAT and body["model"] == "tiny" and body["seed"] == 3 and "temperature" not in body
    assert body["stream"] is True and body["stream_options"] == {"include_usage": True}
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi you"},
    ]
    assert {name.lower(): value for name, value in headers.items()}["authorization"] == "Bearer k"


def test_a_conversation_is_remembered_and_can_be_forgotten(server: Scripted, shell: Shell) -> None:
    for line in ("one", "/system Be kind.", "two", "", "   "):
        assert shell.hear(line)
    assert [message["content"] for message in server.asked[-1][1]["messages"]] == [
        "Be kind.",
        "one",
        "Hello",
        "two",
    ]
    assert shell.hear("/reset") and shell.history == [] and shell.system == "Be kind."
    assert shell.hear("/history") and said(shell).endswith("nothing was said yet\n")
    assert not shell.hear("/quit")


def test_retry_asks_the_last_thing_again(server: Scripted, shell: Shell) -> None:
    assert shell.hear("/retry") and "nothing was asked yet" in said(shell)
    shell.hear("one")
    shell.hear("/retry")
    assert [m["content"] for m in server.asked[-1][1]["messages"]] == ["one"]
    assert len(shell.history) == 2


def test_commands_are_explained_and_unknown_ones_told(shell: Shell) -> None:
    assert shell.hear("/help") and "/reset" in said(shell)
    assert shell.hear("/histroy") and "did you mean /history?" in said(shell)


def test_lines_from_a_pipe(server: Scripted, shell: Shell) -> None:
    assert shell.take(["one\n", "\n", "/system s\n", "two\n", "/quit\n", "three\n"]) == 0
    asked = [body["messages"][-1]["content"] for path, body in server.asked if path == CHAT]
    assert asked == ["one", "two"]


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (Answer(events(delta("Hel"), done=False)), Failed, "ended before its end was said"),
        (Answer(events(delta("Hel"), {"error": {"message": "pods gone"}}, done=False)), Failed, "pods gone"),
        (Answer(b"data: {nonsense\n\n"), Failed, "no JSON"),
        (Answer(b'{"error": {"message": "full"}}', 429), Refused, "full (HTTP 429)"),
        (Answer(b'{"error": {"message": "bad"}}', 400), InvalidRequest, "bad (HTTP 400)"),
        (Answer(b'{"detail": "broken"}', 500), Failed, "broken (HTTP 500)"),
        (Answer(b"<html>", 502), Failed, "<html> (HTTP 502)"),
    ],
)
def test_what_fails_is_said_and_not_remembered(
    server: Scripted, shell: Shell, answer: Answer, kind: type[Exception], message: str
) -> None:
    server.answers[CHAT] = [answer]
    with pytest.raises(kind) as caught:
        shell.answer("one")
    assert message in str(caught.value)
    assert shell.history == []
    assert shell.hear("one") and message in said(shell), "the shell goes on"


def test_no_server_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--url", "http://127.0.0.1:9", "hello"]) == 1
    error = capsys.readouterr().err
    assert "no server answers on http://127.0.0.1:9" in error and "baton up" in error


def test_a_server_without_models_must_be_told_which() -> None:
    with (
        Scripted({"/v1/models": [Answer(b'{"data": []}')]}) as server,
        pytest.raises(Failed, match="--model"),
    ):
        _ = Client(server.url, "k", "", Sampling()).model


def test_the_server_s_thoughts_and_pods_are_shown(server: Scripted, shell: Shell) -> None:
    thought = {"choices": [{"delta": {"reasoning_content": "hmm"}}]}
    headers = {"x-baton-prefill": "prefill-0", "x-baton-decode": "decode-1"}
    server.answers[CHAT] = [Answer(events(thought, delta("yes")), headers=headers)]
    shell.answer("really?")
    assert said(shell).startswith("hmm\n\nyes\n[2 tokens, ") and "prefill-0 → decode-1]" in said(shell)
    assert shell.history[-1]["content"] == "yes"


def test_the_summary_counts_from_the_first_token() -> None:
    tally = Tally(first_s=0.5, last_s=1.5, tokens=11, prompt_tokens=20, cached_tokens=16, finish="length")
    assert summary(tally) == (
        "[11 tokens, 10 tokens/s, first after 500 ms; 16 of 20 prompt tokens cached; "
        "cut off: the longest answer was reached]"
    )
    assert Tally(first_s=1.0, last_s=1.0, tokens=1).rate == 0.0


def test_a_lost_connection_is_no_traceback() -> None:
    with Client("http://127.0.0.1:9", "k", "m", Sampling()) as client, pytest.raises(PeerLost):
        list(client.ask([], Tally()))


def test_what_pods_did_goes_before_where_it_was_sent(server: Scripted, shell: Shell) -> None:
    timeline = {"choices": [], "baton": {"pod": "decode-2", "prefill": "prefill-1", "marks": []}}
    headers = {"x-baton-prefill": "prefill-0,prefill-1", "x-baton-decode": "decode-2"}
    server.answers[CHAT] = [Answer(events(delta("yes"), timeline), headers=headers)]
    shell.answer("who?")
    assert "prefill-1 → decode-2]" in said(shell)
    server.answers[CHAT] = [
        Answer(events(delta("yes")), headers={"x-baton-prefill": "local", "x-baton-decode": "d"})
    ]
    shell.answer("who?")
    assert said(shell).rstrip().endswith("; d]")
