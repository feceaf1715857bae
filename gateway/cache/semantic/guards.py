"""Do two questions that lie close together ask the same? Embeddings do not see a number, a negation or who does what to
whom; the words do.

Pure. A text is reduced to what must be the same in both: its words in their order, without those that change nothing,
and without the endings of plurals and verbs. Words of other languages all count, so that there it takes the same words.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import regex

from gateway.cache.semantic.words import ANYBODY, FILLERS, NEGATIONS, NUMBERS, PERSONS, QUESTIONS, SAME, stem

# `marks`: signs that are no punctuation, as code and formulas have them.
Objection = Literal["empty", "numbers", "negation", "question", "person", "marks", "words", "order"]
Kind = Literal["words", "numbers", "negations", "questions", "persons", "marks"]

# A word, with the signs that make another word of it (C++, 3.5, and/or); or a sign.
_WORD: Final = regex.compile(
    r"[\p{L}\p{M}\p{N}_]+(?:[.,:'+#/@^]+[\p{L}\p{M}\p{N}_]+)*(?:\+\+|\+|#)?|\?[?.:]+|::|[^\s\p{L}\p{N}]"
)
_ABBREVIATION: Final = regex.compile(r"\b\p{Lu}{2,}\b")
_PUNCTUATION: Final = frozenset("?.,!;:\"'“”‘’()-–—…¿¡")
_PLAIN: Final = (
    (regex.compile(r"[’‘`´]"), "'"),
    (regex.compile(r"(?<!\w)[-−](?=\d)|(?<=\d)\s*[-−]\s*(?=\d)"), " minus "),
    (regex.compile(r"(?<=\d)!"), " factorial"),
    (regex.compile(r"\bcan't\b|\bcannot\b|\bcant\b"), "can not"),
    (regex.compile(r"\bwon't\b"), "will not"),
    (regex.compile(r"n't\b|(?<=\b(?:do|does|did|is|are|was|would|should|could))nt\b"), " not"),
    (regex.compile(r"\b(what|how|who|where|when|why|that|there|it|here|he|she)'s\b"), r"\1 is"),
    (regex.compile(r"'(re|ve|ll|d|m)\b"), r" \1"),
    (regex.compile(r"'s\b"), ""),
    (regex.compile(r"s'(?=\s|$)"), "s"),
    (regex.compile(r"\b(tell|explain|show|give)( to)? me\b"), r"\1"),
    (regex.compile(r"^(\W*(?:what|which) (?:is|are)) (?:some|any)\b"), r"\1"),
    (regex.compile(r"\bdo(?=\W*$)"), "act"),
    (
        regex.compile(
            r"^\W*(?:what|which)(?: is| are)? (?:the |some |a |an )?(?:of the |of )?"
            r"(?:best |good |possible |effective )?ways? (?:(?:to|for|of)\b|(?:i|you|we|one) can\b)"
        ),
        "how to ",
    ),
)
# How something is done: whoever asks, and whether it can or should be.
_HOW_TO: Final = regex.compile(
    r"^\W*how (?:(?:do|does|can|could|should|would|might|to|must|shall) ?(?:i|you|we|one|someone|a person)?\b|to\b)"
)
_OBJECTIONS: Final[dict[Kind, Objection]] = {
    "numbers": "numbers",
    "negations": "negation",
    "questions": "question",
    "persons": "person",
    "marks": "marks",
}


@dataclass(frozen=True, slots=True)
class Gist:
    """What must be the same in two questions for them to ask the same."""

    words: tuple[str, ...]
    numbers: tuple[str, ...]
    negations: tuple[str, ...]
    questions: tuple[str, ...]
    persons: tuple[str, ...]
    marks: tuple[str, ...]


def objection(one: str, other: str) -> Objection | None:
    """Why they must not be taken for the same, or None."""
    left, right = gist(one), gist(other)
    if not left.words:
        return "empty"
    for kind, problem in _OBJECTIONS.items():
        if getattr(left, kind) != getattr(right, kind):
            return problem
    if left.words == right.words:
        return None
    return "order" if sorted(left.words) == sorted(right.words) else "words"


@lru_cache(4096)
def gist(text: str) -> Gist:
    names = set() if text.isupper() else {name.lower() for name in _ABBREVIATION.findall(text)}
    plain = text.lower()
    for pattern, instead in _PLAIN:
        plain = pattern.sub(instead, plain)
    plain, how_to = _HOW_TO.subn("how ", plain)
    kinds: dict[Kind, list[str]] = {kind: [] for kind in ("words", *_OBJECTIONS)}
    denied = ""
    for word in _WORD.findall(plain):
        kind, short = _sort(word, names)
        if kind is None or (how_to and kind == "persons" and short in ANYBODY):
            continue
        if kind == "negations":
            denied += "not "
            continue
        kinds[kind].append(short)
        if denied and kind in ("words", "numbers"):
            kinds["negations"].append(denied + short)
            denied = ""
    kinds["negations"] += [denied] if denied else []
    if kinds["marks"]:  # where brackets and operators count, everything does
        kinds["marks"] = text.lower().split()
    kinds["words"] = _either_way(kinds["words"])
    return Gist(**{kind: tuple(found) for kind, found in kinds.items()})


def _either_way(words: list[str]) -> list[str]:
    """Two words with `and` or `or` between them may change places."""
    for place in range(1, len(words) - 1):
        left, middle, right = words[place - 1 : place + 2]
        if middle in ("and", "or") and right < left:
            words[place - 1], words[place + 1] = right, left
    return words


def _sort(word: str, names: Collection[str]) -> tuple[Kind | None, str]:
    """None: it changes nothing."""
    if word in names:
        return "words", word
    if not any(sign.isalnum() for sign in word):
        return (None if word in _PUNCTUATION else "marks"), word
    if word in NUMBERS or any(sign.isnumeric() for sign in word):
        return "numbers", word
    if word in NEGATIONS:
        return "negations", word
    if word in QUESTIONS or word in PERSONS:
        return ("questions", QUESTIONS[word]) if word in QUESTIONS else ("persons", PERSONS[word])
    return (None if word in FILLERS else "words"), SAME.get(word) or stem(word)
