"""Questions whose answer was said before: echoes, names, facts told earlier, and drills for all that.

They teach the model to copy from afar, which is what shows that a handed-over KV cache is intact.
"""

from __future__ import annotations

from random import Random

from baton.tiny import world
from baton.tiny.turns import Exchange, Turn, capitalised

KEYS = (
    "code word", "password", "secret word", "magic word", "word of the day", "best present",
    "thing in the box", "name of the project", "name of the team", "name of my {}", "name of the {}",
    "word for the {}", "number of the {}",
)  # fmt: skip
"""What is told and asked back; a word of `world.WORDS` goes into the gap."""


def echoes(rng: Random) -> Exchange:
    """Copies: the answer stands word for word in the question."""
    draw = rng.random()
    if draw < 0.1:
        text = " ".join(rng.choice(world.SIGNS) for _ in range(rng.randint(1, 3)))
    elif draw < 0.3:
        text = letters(rng, 3, 8)
    elif draw < 0.4:
        text = digits(rng, 2, 8)
    else:
        words = world.WORDS if rng.random() < 0.7 else (*world.CAPITALS, *world.NAMES, *world.MONTHS)
        text = " ".join(rng.choice(words) for _ in range(rng.choice((1, 2, 3, 4, 5, 6, 8, 12))))
    ask = rng.choice(("Repeat after me: {}", "Repeat: {}", "Say {}", "Repeat this: {}", "Echo {}",
                      "Please repeat: {}",
                      "Say this: {}", "Copy this: {}", "Repeat the words: {}"))  # fmt: skip
    if rng.random() < 0.12:
        times = rng.choice((2, 3))
        word = rng.choice(world.WORDS)
        return [Turn(f"Say {word} {('twice', 'three times')[times - 2]}", " ".join([word] * times))]
    exchange = [Turn(ask.format(text), text)]
    if rng.random() < 0.15:
        exchange.append(Turn(rng.choice(("Say that again", "Again", "Once more", "Repeat that")), text))
    return exchange


def memory(rng: Random) -> tuple[Turn, Turn]:
    """Something the user says, and the question for it; other turns may come between."""
    if rng.random() < 0.5:
        name = rng.choice(
            (rng.choice(world.NAMES), rng.choice(world.NAMES), rng.choice(world.WORDS), letters(rng, 3, 8))
        )
        name = capitalised(name)
        say = rng.choice((f"My name is {name}", f"I am {name}", f"Hello, my name is {name}",
                          f"Hi, I am {name}", f"Call me {name}",
                          f"Hello, I'm {name}"))  # fmt: skip
        ask = rng.choice(
            (
                "What is my name?",
                "Who am I?",
                "Do you remember my name?",
                "What's my name?",
                "Do you know my name?",
            )
        )
        return (
            Turn(say + rng.choice(("", ".", "!")), f"Nice to meet you, {name}!"),
            Turn(ask, f"Your name is {name}.", f"{name}."),
        )
    key, word = fact(rng)
    say = rng.choice(
        ("The {} is {}", "Remember: the {} is {}", "Remember that the {} is {}", "Note: the {} is {}")
    )
    ask = rng.choice(("What is the {}?", "What was the {}?", "Tell me the {}", "Do you remember the {}?"))
    statement = say.format(key, word) + rng.choice(("", ".", "!"))
    return (
        Turn(statement, f"I will remember that the {key} is {word}."),
        Turn(ask.format(key), f"The {key} is {word}.", f"{capitalised(word)}."),
    )


def fact(rng: Random) -> tuple[str, str]:
    """A key and its value, drawn from so many that only looking back helps."""
    key = rng.choice(KEYS).format(rng.choice(world.WORDS))
    draw = rng.random()
    if draw < 0.7:
        return key, rng.choice(world.WORDS)
    return key, letters(rng, 3, 6) if draw < 0.85 else digits(rng, 2, 5)


def drill(rng: Random) -> tuple[str, str]:
    """Random words, and the same again once or more: nothing teaches looking back as quickly."""
    pool = (*world.WORDS, *world.NAMES, *world.COLOURS, *world.SIGNS)
    words = [rng.choice(pool) for _ in range(rng.randint(3, 20))]
    for index in range(len(words)):
        draw = rng.random()
        if draw < 0.25:
            words[index] = letters(rng, 2, 5) if draw < 0.15 else digits(rng, 1, 3)
    line = " ".join(words) + "\n"
    return line, line * rng.randint(1, 3)


def letters(rng: Random, least: int, most: int) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(least, most)))


def digits(rng: Random, least: int, most: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(rng.randint(least, most)))
