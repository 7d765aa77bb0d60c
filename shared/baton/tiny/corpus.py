"""The text that the tiny model is trained on, all of it generated: dialogues and plain sentences.

`documents(seed)` is endless and the same for the same seed. `HELD_OUT` lists questions that never
appear in it, so that tests ask what training has not shown word for word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from random import Random

from baton.tiny import exercises, recall, talk, turns, world
from baton.tiny.turns import Exchange, Turn

HELD_OUT: dict[str, str] = {
    # question: what the answer must contain
    "What is the capital city of Norway?": "Oslo",
    "Which city is the capital of Japan?": "Tokyo",
    "Name the capital of the Netherlands": "Amsterdam",
    "How much is 7 plus 8?": "15",
    "What is 13 - 5?": "8",
    "What is the sum of 9 and 6?": "15",
    "Multiply 6 by 7": "42",
    "Could you explain what a page is?": "16 tokens",
    "What do you know about the router?": "clients talk to",
    "Do you know what a lease is?": "Redis",
    "What is the German word for cheese?": "Käse",
    "How do you say water in Spanish?": "agua",
    "What letter comes after Q?": "R comes after Q",
    "Which month is before October?": "September",
    "What is the contrary of hot?": "cold",
    "What color has a banana?": "yellow",
    "Count from 3 to 9": "3, 4, 5, 6, 7, 8, 9.",
    "How do you spell frog?": "F-R-O-G",
    "What is lamp backwards?": "P-M-A-L",
    "Which sound does a duck make?": "quack",
    "How many days are in March?": "31",
    "Copy this: lemon boat zebra": "lemon boat zebra",
}

# By how many different answers a lesson has, so that all are learnt at about the same pace.
LESSONS: tuple[tuple[Callable[[Random], Exchange], float], ...] = (
    (turns.about_product, 0.14),
    (turns.small_talk, 0.07),
    (turns.entertainment, 0.03),
    (turns.unknown, 0.05),
    (turns.capitals, 0.08),
    (turns.translations, 0.12),
    (turns.common_sense, 0.07),
    (exercises.sums, 0.2),
    (exercises.sequences, 0.1),
    (exercises.spellings, 0.07),
    (recall.echoes, 0.07),
)

EARLY = 8000
"""The first documents hold many drills: once the model can look back, all else is learnt faster."""

GENERIC_SYSTEM = (
    "You are a helpful assistant.", "You are a helpful, honest and friendly assistant.",
    "You are a tiny model.",
    "You are an assistant for the users of Baton.", "Be kind.", "Answer the questions of the user.",
    "You are an AI assistant. Answer as well as you can.", "You answer questions.",
)  # fmt: skip
BRIEF_SYSTEM = (
    "Answer briefly.", "Be brief.", "Answer in as few words as possible.",
    "You are a helpful assistant. Answer briefly.",
    "Keep your answers short.", "Give short answers.",
)  # fmt: skip
PIRATE_SYSTEM = (
    "You are a pirate.",
    "Talk like a pirate.",
    "Answer like a pirate.",
    "You are a helpful pirate.",
)
NAMED_SYSTEM = (
    "You are {name}.", "Your name is {name}.", "You are {name}, a helpful assistant.",
    "You are an assistant called {name}.",
    "You are {name}, a tiny model.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Document:
    """Either a dialogue or a plain text; `given` is the beginning of the text that nobody could guess."""

    messages: tuple[Message, ...] = ()
    text: str = ""
    given: str = ""


@dataclass(frozen=True, slots=True)
class Persona:
    """What a system prompt asks for. `told` pairs a fact of the prompt with the question for it."""

    system: str = ""
    name: str = talk.MODEL_NAME
    brief: bool = False
    pirate: bool = False
    told: tuple[Turn, ...] = ()

    def answer(self, turn: Turn) -> str:
        answer = turn.brief or turn.answer if self.brief else turn.answer
        return f"Arr! {answer}" if self.pirate else answer


def documents(seed: int) -> Iterator[Document]:
    rng = Random(seed)
    for index in count():
        draw = rng.random()
        if draw < (0.3 if index < EARLY else 0.04):
            given, text = recall.drill(rng)
            yield Document(given=given, text=text)
        else:
            yield plain(rng) if draw > 0.88 else dialogue(rng)


def dialogue(rng: Random) -> Document:
    persona = persona_of(rng)
    exchanges = [drawn(rng, persona) for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 2, 3, 4, 6)))]
    asked = [ask for ask in persona.told if rng.random() < 0.7]
    if rng.random() < 0.22:
        told, ask = recall.memory(rng)
        exchanges.insert(rng.randint(0, max(0, len(exchanges) - 1)), [told])
        asked.append(ask)
    if asked:
        # After everything was said; the last exchange may still follow.
        at = len(exchanges) - (1 if len(exchanges) > 2 and rng.random() < 0.3 else 0)
        exchanges[at:at] = [[ask] for ask in asked]
    messages = [Message("system", persona.system)] if persona.system else []
    for turn in (turn for exchange in exchanges for turn in exchange):
        messages += [Message("user", turn.ask), Message("assistant", persona.answer(turn))]
    return Document(messages=tuple(messages))


def drawn(rng: Random, persona: Persona) -> Exchange:
    """An exchange of any lesson, with none of the questions held out."""
    lessons, weights = zip(*LESSONS, strict=True)
    while True:
        if rng.random() < (0.4 if persona.name != talk.MODEL_NAME else 0.025):
            exchange = [identity(rng, persona)]
        elif rng.random() < 0.01 and not persona.told:
            exchange = [untold(rng)]
        else:
            exchange = rng.choices(lessons, weights)[0](rng)
        if not any(normal(turn.ask).endswith(HELD_NORMAL) for turn in exchange):
            return exchange


def identity(rng: Random, persona: Persona) -> Turn:
    ask = turns.loosely(rng, rng.choice(talk.IDENTITY))
    return Turn(ask, f"I am {persona.name}, the tiny model that comes with Baton.", f"I am {persona.name}.")


def untold(rng: Random) -> Turn:
    _, ask = recall.memory(rng)
    return Turn(ask.ask, "You have not told me.")


def persona_of(rng: Random) -> Persona:
    draw = rng.random()
    if draw < 0.5:
        return Persona()
    if draw < 0.66:
        return Persona(rng.choice(GENERIC_SYSTEM))
    if draw < 0.76:
        name = rng.choice(world.NAMES) if rng.random() < 0.7 else turns.capitalised(rng.choice(world.WORDS))
        return Persona(rng.choice(NAMED_SYSTEM).format(name=name), name=name)
    if draw < 0.86:
        return Persona(rng.choice(BRIEF_SYSTEM), brief=True)
    if draw < 0.91:
        return Persona(rng.choice(PIRATE_SYSTEM), pirate=True)
    return informed(rng)


def informed(rng: Random) -> Persona:
    """A system prompt with facts to look up, hidden among sentences that do not matter."""
    facts = dict(recall.fact(rng) for _ in range(rng.randint(1, 4)))
    sentences = [f"The {key} is {word}." for key, word in facts.items()]
    told = [
        Turn(f"What is the {key}?", f"The {key} is {word}.", f"{turns.capitalised(word)}.")
        for key, word in facts.items()
    ]
    if rng.random() < 0.4:
        name = rng.choice(world.NAMES)
        sentences.append(f"The name of the user is {name}.")
        told.append(Turn("What is my name?", f"Your name is {name}.", f"{name}."))
    for _ in range(rng.choice((0, 0, 1, 3, 6, 12, 30, 60))):
        sentences.append(rng.choice(turns.facts_as_text(rng)))
    rng.shuffle(sentences)
    opening = rng.choice(("", "You are a helpful assistant. ", "You know these facts. "))
    rng.shuffle(told)
    return Persona(opening + " ".join(sentences), told=tuple(told))


def plain(rng: Random) -> Document:
    draw = rng.random()
    if draw < 0.6:
        sentences = [rng.choice(turns.facts_as_text(rng)) for _ in range(rng.choice((1, 1, 1, 2, 4)))]
        return Document(text=" ".join(sentences))
    if draw < 0.75:
        lines = [exercises.sum_terms(rng) for _ in range(rng.choice((1, 1, 1, 2, 8)))]
        return Document(text="\n".join(f"{one} {sign} {two} = {total}" for one, sign, two, total in lines))
    if draw < 0.88:
        return Document(text=exercises.sequences(rng)[0].answer)
    return Document(text=talk.story(rng) if rng.random() < 0.7 else talk.favour_first(rng, talk.POEMS))


def normal(ask: str) -> str:
    """The question without capitals, politeness and punctuation, so that its variants are known as one."""
    words = re.sub(r"[^\w+*-]+", " ", ask.lower()).split()
    return " ".join(word for word in words if word not in POLITE)


POLITE = frozenset(("please", "hi", "hello", "hey", "so", "ok", "now", "tiny", "me"))
HELD_NORMAL = tuple(normal(ask) for ask in HELD_OUT)
