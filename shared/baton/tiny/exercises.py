"""Questions whose answer is computed: sums, sequences, spelling."""

from __future__ import annotations

from random import Random

from baton.tiny import world
from baton.tiny.turns import Exchange, Turn, capitalised, in_passing, loosely

LARGEST_TERM = 20
"""Sums are taught up to this number; beyond, the model says so."""

SHORT_WORDS = tuple(word for word in world.WORDS if len(word) <= 4)

TOO_LARGE = "That is too much for me. I can only do sums up to about 20."


def sums(rng: Random) -> Exchange:
    draw = rng.random()
    if draw < 0.05:
        one, two = rng.randrange(40, 1000), rng.randrange(21, 1000)
        ask = loosely(rng, sum_ask(rng, str(one), rng.choice("+-*"), str(two)))
        return [Turn(ask, TOO_LARGE)]
    if draw < 0.12:
        return [comparison(rng)]
    one, sign, two, total = sum_terms(rng)
    if sign == "+" and max(one, two, total) <= LARGEST_TERM and rng.random() < 0.15:
        names = [world.NUMBERS[number] for number in (one, two, total)]
        ask = rng.choice(
            (
                f"What is {names[0]} plus {names[1]}?",
                f"{names[0]} plus {names[1]}",
                f"Add {names[0]} and {names[1]}",
            )
        )
        answer = f"{capitalised(names[0])} plus {names[1]} is {names[2]}."
        return [Turn(loosely(rng, ask), answer, f"{capitalised(names[2])}.")]
    exchange = [
        Turn(
            loosely(rng, sum_ask(rng, str(one), sign, str(two))), f"{one} {sign} {two} = {total}", f"{total}"
        )
    ]
    while 0 <= total <= LARGEST_TERM and rng.random() < 0.25:
        step = rng.randint(1, 10)
        sign = "+" if total < step or rng.random() < 0.6 else "-"
        result = total + step if sign == "+" else total - step
        word = rng.choice(("plus", "+")) if sign == "+" else rng.choice(("minus", "-"))
        exchange.append(
            Turn(in_passing(rng, f"And {word} {step}?"), f"{total} {sign} {step} = {result}", f"{result}")
        )
        total = result
    return exchange


def sum_terms(rng: Random) -> tuple[int, str, int, int]:
    draw = rng.random()
    one, two = rng.randint(0, LARGEST_TERM), rng.randint(0, LARGEST_TERM)
    if draw < 0.55:
        return one, "+", two, one + two
    if draw < 0.8:
        if rng.random() < 0.85:
            one, two = max(one, two), min(one, two)
        return one, "-", two, one - two
    one, two = rng.randint(0, 10), rng.randint(0, 10)
    return one, "*", two, one * two


def sum_ask(rng: Random, one: str, sign: str, two: str) -> str:
    word = {"+": "plus", "-": "minus", "*": "times"}[sign]
    asks = [
        f"What is {one} {sign} {two}?", f"{one} {sign} {two}", f"{one} {sign} {two} =", f"{one}{sign}{two}",
        f"{one}{sign}{two}=",
        f"What is {one} {word} {two}?", f"How much is {one} {word} {two}?",
        f"How much is {one} {sign} {two}?",
        f"{one} {word} {two}", f"Calculate {one} {sign} {two}", f"Compute {one} {word} {two}",
        f"What's {one} {sign} {two}?",
    ]  # fmt: skip
    if sign == "+":
        asks += [f"Add {one} and {two}", f"What is the sum of {one} and {two}?"]
    if sign == "-":
        asks += [f"Subtract {two} from {one}", f"Take {two} from {one}"]
    if sign == "*":
        asks += [f"Multiply {one} by {two}", f"{one} x {two}", f"What is {one} x {two}?"]
    return rng.choice(asks)


def comparison(rng: Random) -> Turn:
    one, two = rng.sample(range(LARGEST_TERM + 1), 2)
    larger = rng.random() < 0.6
    word = rng.choice(("larger", "bigger", "greater")) if larger else rng.choice(("smaller", "less"))
    best = max(one, two) if larger else min(one, two)
    other = one + two - best
    ask = rng.choice((f"Which is {word}, {one} or {two}?", f"Which number is {word}: {one} or {two}?"))
    return Turn(loosely(rng, ask), f"{best} is {word} than {other}.", f"{best}")


def sequences(rng: Random) -> Exchange:
    lesson = rng.choice((counting, recitation, neighbours, neighbours, positions))
    return [lesson(rng)]


def counting(rng: Random) -> Turn:
    draw = rng.random()
    if draw < 0.45:
        end = rng.randint(2, 30) if rng.random() < 0.85 else rng.choice((40, 50, 60, 100))
        ask = rng.choice(
            (
                f"Count to {end}",
                f"Count from 1 to {end}",
                f"Can you count to {end}?",
                f"Please count up to {end}",
            )
        )
        return Turn(loosely(rng, ask), listed(range(1, end + 1)))
    if draw < 0.7:
        start = rng.randint(1, 30)
        end = start + rng.randint(2, 15)
        return Turn(loosely(rng, f"Count from {start} to {end}"), listed(range(start, end + 1)))
    if draw < 0.85:
        start = rng.randint(3, 20)
        ask = rng.choice(
            (f"Count down from {start}", f"Count backwards from {start}", f"Count from {start} down to 0")
        )
        return Turn(loosely(rng, ask), listed(range(start, -1, -1)))
    kind, first = rng.choice((("even", 2), ("odd", 1)))
    end = rng.randint(6, 20)
    ask = rng.choice((f"Name the {kind} numbers up to {end}", f"List the {kind} numbers to {end}"))
    return Turn(loosely(rng, ask), listed(range(first, end + 1, 2)))


def listed(numbers: range) -> str:
    return ", ".join(str(number) for number in numbers) + "."


def recitation(rng: Random) -> Turn:
    name, items = rng.choice(
        (
            ("the alphabet", tuple(world.ALPHABET)), ("the days of the week", world.DAYS),
            ("the months", world.MONTHS),
            ("the seasons", world.SEASONS), ("the planets", world.PLANETS),
            ("the letters of the alphabet", tuple(world.ALPHABET)),
            ("the months of the year", world.MONTHS), ("the days", world.DAYS),
        )
    )  # fmt: skip
    ask = rng.choice(
        (
            f"Say {name}",
            f"List {name}",
            f"What are {name}?",
            f"Tell me {name}",
            f"Name {name}",
            f"Can you say {name}?",
        )
    ).replace("What are the alphabet", "What is the alphabet")
    return Turn(loosely(rng, ask), capitalised(", ".join(items)) + ".")


def neighbours(rng: Random) -> Turn:
    noun, items = rng.choice(
        (
            ("letter", tuple(world.ALPHABET)),
            ("letter", tuple(world.ALPHABET)),
            ("day", world.DAYS),
            ("month", world.MONTHS),
        )
    )
    index = rng.randrange(len(items) - 1)
    one, two = items[index], items[index + 1]
    if rng.random() < 0.6:
        word, known, answer = "after", one, two
    else:
        word, known, answer = "before", two, one
    asks = [f"Which {noun} comes {word} {known}?", f"What {noun} comes {word} {known}?",
            f"What comes {word} {known}?",
            f"Which {noun} is {word} {known}?", f"What is the {noun} {word} {known}?"]  # fmt: skip
    return Turn(loosely(rng, rng.choice(asks)), f"{answer} comes {word} {known}.", f"{answer}.")


def positions(rng: Random) -> Turn:
    index = rng.randrange(12)
    if rng.random() < 0.4:
        month = world.MONTHS[index]
        ask = rng.choice((f"How many days does {month} have?", f"How many days are in {month}?"))
        return Turn(
            loosely(rng, ask), f"{month} has {world.MONTH_DAYS[index]} days.", f"{world.MONTH_DAYS[index]}."
        )
    noun, items, rest = rng.choice(
        (
            ("month", world.MONTHS, " of the year"), ("day", world.DAYS, " of the week"),
            ("letter", tuple(world.ALPHABET[:12]), " of the alphabet"), ("planet", world.PLANETS, ""),
        )
    )  # fmt: skip
    index %= len(items)
    order = world.ORDINALS[index]
    ask = rng.choice(
        (
            f"What is the {order} {noun}{rest}?",
            f"What is the {order} {noun}?",
            f"Which is the {order} {noun}{rest}?",
        )
    )
    return Turn(loosely(rng, ask), f"The {order} {noun}{rest} is {items[index]}.", f"{items[index]}.")


def spellings(rng: Random) -> Exchange:
    word = rng.choice(SHORT_WORDS)
    draw = rng.random()
    if draw < 0.4:
        ask = rng.choice(
            (f"Spell {word}", f"Spell the word {word}", f"How do you spell {word}?", f"Can you spell {word}?")
        )
        return [Turn(loosely(rng, ask), "-".join(word.upper()) + ".")]
    if draw < 0.8:
        ask = rng.choice((f"Say {word} backwards", f"Reverse {word}", f"Reverse the word {word}",
                          f"What is {word} backwards?",
                          f"Write {word} backwards", f"Spell {word} backwards"))  # fmt: skip
        return [Turn(loosely(rng, ask), "-".join(reversed(word.upper())) + ".")]
    if draw < 0.9:
        ask = rng.choice(
            (
                f"How many letters does {word} have?",
                f"How many letters are in {word}?",
                f"How long is the word {word}?",
            )
        )
        return [Turn(loosely(rng, ask), f"The word {word} has {len(word)} letters.", f"{len(word)}.")]
    first = rng.random() < 0.5
    which, letter = ("first", word[0]) if first else ("last", word[-1])
    ask = rng.choice((f"What is the {which} letter of {word}?", f"Which letter is the {which} of {word}?"))
    return [
        Turn(loosely(rng, ask), f"The {which} letter of {word} is {letter.upper()}.", f"{letter.upper()}.")
    ]
