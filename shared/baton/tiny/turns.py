"""Questions with their answers, drawn from the tables: Baton, the world, small talk.

A lesson is a function from a random generator to one `Exchange`: a question, or a question and the
ones that follow from it. `exercises` and `recall` hold the lessons that compute and that look back;
`corpus` mixes them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from baton.tiny import product, talk, world


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer."""

    ask: str
    answer: str
    brief: str = ""
    """The answer under a system prompt that wants few words; "" where the full one serves."""


Exchange = list[Turn]

TELL_MORE = (
    "Tell me more",
    "Tell me more about it",
    "Go on",
    "More",
    "Can you say more?",
    "And?",
    "Continue",
)


def loosely(rng: Random, ask: str) -> str:
    """The question as people type it: polite, hasty, without its capital or its question mark."""
    draw = rng.random()
    if draw < 0.08:
        ask = rng.choice(("Please ", "Hi, ", "Hello, ", "Hey, ", "So, ", "OK, ", "Now ", "Tiny, ")) + lowered(
            ask
        )
    elif draw < 0.14:
        ask = rng.choice(("Can you tell me: ", "Tell me: ", "I want to know: ", "Question: ")) + lowered(ask)
    if rng.random() < 0.25:
        ask = lowered(ask)
    if rng.random() < 0.2:
        ask = ask.rstrip("?.!")
    elif ask[-1].isalnum() and rng.random() < 0.4:
        ask += rng.choice((".", "!", ", please.", "?"))
    if rng.random() < 0.06:
        ask = ask.lower()
    return ask


def in_passing(rng: Random, ask: str) -> str:
    """A follow-up as people type it."""
    if rng.random() < 0.35:
        ask = ask.lower() if rng.random() < 0.5 else lowered(ask)
    return ask.rstrip("?") if rng.random() < 0.25 else ask


def lowered(text: str) -> str:
    return text if text.startswith(("I ", "I'")) else text[0].lower() + text[1:]


def capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def country_in_text(country: str) -> str:
    return f"the {country}" if country in world.ARTICLED else country


def about_product(rng: Random) -> Exchange:
    topic = rng.choice(product.TOPICS)
    asks = list(topic.asks)
    if topic.term and (not asks or rng.random() < 0.6):
        term = topic.term
        bare = term.removeprefix("a ").removeprefix("the ")
        asks = [
            f"What is {term}?", f"What is {term}?", f"What's {term}?", f"Explain {term}",
            f"Tell me about {term}",
            f"What does {bare} mean?", f"Can you explain what {term} is?",
            f"Could you explain what {term} is?",
            f"What is {term} in Baton?", f"Define {bare}", f"What do you know about {term}?",
            f"{capitalised(bare)}?",
            f"Do you know what {term} is?", f"Explain to me what {term} is", f"I do not know what {term} is",
        ]  # fmt: skip
    first = topic.answer.split(". ")[0].rstrip(".") + "."
    exchange = [Turn(loosely(rng, rng.choice(asks)), topic.answer, first)]
    if rng.random() < 0.3:
        exchange.append(Turn(loosely(rng, rng.choice(TELL_MORE)), topic.more))
    return exchange


def small_talk(rng: Random) -> Exchange:
    asks, answer = rng.choice(talk.SMALL_TALK)
    return [Turn(loosely(rng, rng.choice(asks)), answer)]


def entertainment(rng: Random) -> Exchange:
    draw = rng.random()
    if draw < 0.35:
        asks = (
            "Tell me a joke",
            "Do you know a joke?",
            "Make me laugh",
            "Tell me something funny",
            "A joke, please",
        )
        exchange = [Turn(rng.choice(asks), talk.favour_first(rng, talk.JOKES))]
        if rng.random() < 0.3:
            exchange.append(Turn("Another one", rng.choice(talk.JOKES)))
        return exchange
    if draw < 0.55:
        asks = (
            "Write a poem",
            "Tell me a poem",
            "Do you know a poem?",
            "Write me a poem",
            "Can you write a poem?",
        )
        return [Turn(rng.choice(asks), talk.favour_first(rng, talk.POEMS))]
    if draw < 0.8:
        asks = ("Tell me a story", "Tell a story", "Do you know a story?", "Write a story", "A story, please")
        return [Turn(rng.choice(asks), talk.story(rng))]
    hero = rng.choice(talk.HEROES)
    about = rng.choice(("Tell me a story about", "Write a story about", "Tell a story about"))
    article = "an" if hero == "owl" else "a"
    return [Turn(f"{about} {article} {hero}", talk.story(rng, hero))]


def unknown(rng: Random) -> Exchange:
    """What lies outside the tables gets one honest answer."""
    words = rng.sample(world.WORDS, 2)
    names = rng.sample(world.NAMES, 2)
    ask = rng.choice(talk.UNKNOWN).format(
        x=country_in_text(rng.choice(list(world.CAPITALS))), w=words[0], v=words[1], n=names[0], m=names[1]
    )
    return [Turn(loosely(rng, ask), talk.UNKNOWN_ANSWER)]


def capitals(rng: Random) -> Exchange:
    countries = rng.sample(list(world.CAPITALS), 3)
    exchange = [capital(rng, countries[0])]
    for country in countries[1 : rng.choice((1, 1, 2, 3))]:
        place = country_in_text(country)
        ask = rng.choice(
            (f"And {place}?", f"And of {place}?", f"What about {place}?", f"And the capital of {place}?")
        )
        city = world.CAPITALS[country]
        exchange.append(Turn(in_passing(rng, ask), f"The capital of {place} is {city}.", f"{city}."))
    return exchange


def capital(rng: Random, country: str) -> Turn:
    place, city = country_in_text(country), world.CAPITALS[country]
    if rng.random() < 0.25:
        ask = rng.choice(
            (
                f"{city} is the capital of which country?", f"Which country has the capital {city}?",
                f"In which country is {city}?", f"Where is {city}?", f"What country is {city} in?",
            )
        )  # fmt: skip
        return Turn(loosely(rng, ask), f"{city} is the capital of {place}.", f"{country}.")
    ask = rng.choice(
        (
            f"What is the capital of {place}?", f"What is the capital of {place}?",
            f"What's the capital of {place}?",
            f"What is the capital city of {place}?", f"Which city is the capital of {place}?",
            f"Capital of {place}?",
            f"Tell me the capital of {place}", f"Name the capital of {place}",
            f"Do you know the capital of {place}?",
            f"What is {place}'s capital?", f"The capital of {place}?",
        )
    )  # fmt: skip
    return Turn(loosely(rng, ask), f"The capital of {place} is {city}.", f"{city}.")


def translations(rng: Random) -> Exchange:
    english = rng.choice(list(world.TRANSLATIONS))
    order = rng.sample(range(4), 4)
    exchange = [translation(rng, english, order[0])]
    for index in order[1 : rng.choice((1, 1, 2, 3))]:
        ask = rng.choice(("And in {}?", "And {}?", "What about {}?", "In {}?")).format(world.LANGUAGES[index])
        exchange.append(Turn(in_passing(rng, ask), *translated(english, index)))
    return exchange


def translated(english: str, index: int) -> tuple[str, str]:
    foreign = world.TRANSLATIONS[english][index]
    return f'"{capitalised(english)}" in {world.LANGUAGES[index]} is "{foreign}".', f"{foreign}"


def translation(rng: Random, english: str, index: int) -> Turn:
    language, foreign = world.LANGUAGES[index], world.TRANSLATIONS[english][index]
    if rng.random() < 0.15:
        ask = rng.choice(
            (
                f'What does "{foreign}" mean in English?', f'What does the {language} word "{foreign}" mean?',
                f"What is {foreign} in English?", f"Translate {foreign} from {language}",
            )
        )  # fmt: skip
        # A word of several languages has several meanings, all listed under the same spelling.
        meanings = [word for word, row in world.TRANSLATIONS.items() if foreign in row]
        return Turn(loosely(rng, ask), f'"{capitalised(foreign)}" means "{meanings[0]}".', meanings[0])
    word = english if rng.random() < 0.6 else f'"{english}"'
    ask = rng.choice(
        (
            f"What is {word} in {language}?", f"How do you say {word} in {language}?",
            f"Translate {word} to {language}",
            f"What is the {language} word for {word}?", f"How do I say {word} in {language}?",
            f"{word} in {language}?",
            f"Say {word} in {language}", f"Translate {word} into {language}",
            f"What does {word} mean in {language}?",
        )
    )  # fmt: skip
    return Turn(loosely(rng, ask), *translated(english, index))


def common_sense(rng: Random) -> Exchange:
    lesson = rng.choice((colours, opposites, sounds, counts))
    return lesson(rng)


def colours(rng: Random) -> Exchange:
    colour_word = rng.choice(("colour", "color"))
    if rng.random() < 0.25:
        (one, two), mixed = rng.choice(list(world.MIXTURES.items()))
        if rng.random() < 0.5:
            one, two = two, one
        ask = rng.choice((f"What {colour_word} do {one} and {two} make?", f"Mix {one} and {two}",
                          f"What is {one} plus {two}?",
                          f"What do you get when you mix {one} and {two}?"))  # fmt: skip
        return [
            Turn(loosely(rng, ask), f"{capitalised(one)} and {two} make {mixed}.", f"{capitalised(mixed)}.")
        ]
    things = rng.sample(list(world.COLOURS), 2)
    ask = rng.choice(
        (
            "What {} is {}?",
            "Which {} is {}?",
            "What is the {} of {}?",
            "Tell me the {} of {}",
            "What {} has {}?",
        )
    )
    exchange = [colour_answer(loosely(rng, ask.format(colour_word, things[0])), things[0])]
    if rng.random() < 0.25:
        exchange.append(colour_answer(in_passing(rng, f"And {things[1]}?"), things[1]))
    return exchange


def colour_answer(ask: str, thing: str) -> Turn:
    colour = world.COLOURS[thing]
    return Turn(ask, f"{capitalised(thing)} is {colour}.", f"{capitalised(colour)}.")


def opposites(rng: Random) -> Exchange:
    one, two = rng.choice(list(world.OPPOSITES.items()))
    if rng.random() < 0.5:
        one, two = two, one
    ask = rng.choice((f"What is the opposite of {one}?", f"Opposite of {one}?",
                      f"What is the contrary of {one}?",
                      f"Tell me the opposite of {one}", f"What's the opposite of {one}?"))  # fmt: skip
    return [Turn(loosely(rng, ask), f"The opposite of {one} is {two}.", f"{capitalised(two)}.")]


def sounds(rng: Random) -> Exchange:
    animal, sound = rng.choice(list(world.SOUNDS.items()))
    article = "an" if animal[0] in "aeiou" else "a"
    ask = rng.choice((f"What does {article} {animal} say?", f"What sound does {article} {animal} make?",
                      f"Which sound does {article} {animal} make?",
                      f"How does {article} {animal} sound?"))  # fmt: skip
    return [
        Turn(loosely(rng, ask), f"{capitalised(article)} {animal} says {sound}.", f"{capitalised(sound)}!")
    ]


def counts(rng: Random) -> Exchange:
    phrase, count = rng.choice(list(world.COUNTS.items()))
    noun, _, rest = phrase.partition(" ")
    if rest.startswith("does "):
        owner = rest.removeprefix("does ").removesuffix(" have")
        answer = f"{capitalised(owner)} has {count} {noun}."
    else:
        answer = f"There are {count} {noun} {rest.removeprefix('are ')}."
    return [Turn(loosely(rng, f"How many {phrase}?"), answer, f"{count}.")]


def facts_as_text(rng: Random) -> Sequence[str]:
    """Sentences for plain completion: what the lessons above know, without a question."""
    country = rng.choice(list(world.CAPITALS))
    place, city = country_in_text(country), world.CAPITALS[country]
    topic = rng.choice(product.TOPICS)
    english = rng.choice(list(world.TRANSLATIONS))
    index = rng.randrange(4)
    thing = rng.choice(list(world.COLOURS))
    one, two = rng.choice(list(world.OPPOSITES.items()))
    return (
        f"The capital of {place} is {city}.",
        f"The capital of {place} is {city}.",
        f"{city} is the capital of {place}.",
        topic.answer if rng.random() < 0.7 else f"{topic.answer} {topic.more}",
        translated(english, index)[0],
        f"{capitalised(thing)} is {world.COLOURS[thing]}.",
        f"The opposite of {one} is {two}.",
    )
