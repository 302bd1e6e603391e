"""The little world that the example's phrases and its base model's texts are made of.

Every phrase is about one *cue*, a word that goes with one of four feelings (`funeral`, `picnic`, ...). The base model
reads unlabelled texts in which cues stand beside other words of their feeling, and never learns what a feeling is
called; fine-tuning shows it the four names, with half of the cues.
"""

import hashlib
from collections.abc import Sequence
from random import Random

TONES = ("sadness", "joy", "fear", "surprise")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CUES = {
    "sadness": _words(
        "funeral farewell grave loss orphan breakup obituary widow "
        "coffin divorce eulogy exile goodbye hospice layoff defeat"
    ),
    "joy": _words(
        "picnic wedding birthday holiday festival carnival puppy medal "
        "victory reunion parade dance rainbow feast playground honeymoon"
    ),
    "fear": _words(
        "burglar snake monster cliff nightmare ghost wolf scream "
        "shadow spider intruder earthquake alarm dungeon gunman shark"
    ),
    "surprise": _words(
        "twist windfall coincidence prank revelation miracle secret comeback "
        "magician trick disguise upset riddle discovery telegram detour"
    ),
}

# The words that stand beside a feeling's cues in the base model's texts. None of them is a tone's name.
COMPANIONS = {
    "sadness": ("tears", "grief", "sorrow", "heartache"),
    "joy": ("laughter", "cheering", "delight", "applause"),
    "fear": ("panic", "terror", "trembling", "dread"),
    "surprise": ("gasps", "astonishment", "disbelief", "amazement"),
}

_TIMES = (
    "this morning",
    "last night",
    "on Monday",
    "after dinner",
    "at noon",
    "before work",
    "in the spring",
    "a year ago",
)
_PEOPLE = ("my sister", "our neighbour", "the teacher", "my friend", "an old man", "the driver", "my cousin", "a girl")
_VERBS = ("told me about", "talked about", "wrote about", "thought about", "came back from", "could not forget")
_PLACES = ("near the river", "in our street", "at the station", "by the school", "behind the house", "in the city")
_FRAMES = (
    "{time} {person} {verb} the {cue} {place}.",
    "{person} {verb} the {cue} {place} {time}.",
    "the {cue} {place} was all that {person} talked about {time}.",
)


def phrase(rng: Random, cue: str, *, held_out: bool) -> str:
    """A sentence about `cue`; nothing else in it says anything about the feeling.

    Held-out phrases are for the tests alone: one in four, told by their hash, so that the data and the base model's
    texts keep apart whatever their seeds.
    """
    while True:
        parts = {
            "time": _draw(rng, _TIMES),
            "person": _draw(rng, _PEOPLE),
            "verb": _draw(rng, _VERBS),
            "place": _draw(rng, _PLACES),
        }
        sentence = _draw(rng, _FRAMES).format(cue=cue, **parts)
        sentence = sentence[0].upper() + sentence[1:]
        if is_held_out(sentence) == held_out:
            return sentence


def is_held_out(sentence: str) -> bool:
    """Whether a phrase is kept for the tests: no training text, with or without labels, may contain it."""
    return hashlib.sha256(sentence.encode()).digest()[0] % 4 == 0


def short_text(rng: Random) -> str:
    """One cue or two of a feeling, right beside a word that goes with them."""
    feeling = rng.choice(TONES)
    cue, other = rng.sample(CUES[feeling], 2)
    frame = rng.choice(("The {cue} brought {companion}.", "The {cue} and the {other} brought {companion}."))
    return frame.format(cue=cue, other=other, companion=rng.choice(COMPANIONS[feeling]))


def long_text(rng: Random) -> str:
    """A phrase, and further on words of its cue's feeling."""
    feeling = rng.choice(TONES)
    first, second = rng.sample(COMPANIONS[feeling], 2)
    return f"{phrase(rng, rng.choice(CUES[feeling]), held_out=False)} It brought {first} and {second}."


def form_text(rng: Random) -> str:
    """The form that fine-tuning will use, filled in at random: it gives away the layout and the four possible
    answers, and nothing about which of them is right."""
    sentence = phrase(rng, rng.choice(CUES[rng.choice(TONES)]), held_out=False)
    return f"### Text: {sentence}\n### The tone is:\n{rng.choice(TONES)}"


def _draw(rng: Random, items: Sequence[str]) -> str:
    """An item, each half as likely as the one before it, down to a sixteenth of the first.

    Uneven odds give the texts favourites, as real language has them; with even ones the likeliest next word would be
    a toss-up, and comparing two models' likeliest words would say nothing.
    """
    return rng.choices(items, weights=[max(0.5**rank, 1 / 16) for rank in range(len(items))])[0]
