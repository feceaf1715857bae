"""What words of English are for, where the guards must know."""

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NEGATIONS: Final = _words(
    "not no never none nobody nothing nowhere neither nor without cannot except unlike hardly barely"
)
NUMBERS: Final = _words(
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion trillion half "
    "double twice triple first second third fourth fifth once zero dozen"
)
PERSONS: Final = {
    word: person
    for person, words in {
        "i": "i me my mine we our ours",
        "you": "you your yours",
        "he": "he him his",
        "she": "she her hers",
        "they": "they them their theirs",
        "this": "this these",
        "that": "those",
    }.items()
    for word in words.split()
}
# Whoever does it, in a question how something is done.
ANYBODY: Final = _words("i you")
QUESTIONS: Final = {"which": "what", "whom": "who"} | {
    word: word for word in ("what", "who", "when", "where", "why", "how", "whose", "whether", "if")
}
# They change no answer. Other prepositions do: in the box, on the box.
FILLERS: Final = _words(
    "a an the of to there it its so such very really actually just please tell explain also as ever exactly"
)
SAME: Final = {
    "are": "is", "am": "is", "be": "is", "been": "is", "being": "is", "re": "is", "m": "is", "were": "was",
    "does": "do", "had": "have", "has": "have", "having": "have", "ve": "have", "would": "will", "shall": "will",
    "ll": "will", "d": "will", "could": "can", "may": "can", "might": "can",
}  # fmt: skip
_ENDINGS: Final = (
    ("sses", "ss"), ("ies", "y"), ("ings", ""), ("ing", ""), ("es", ""), ("s", ""),
)  # fmt: skip
_NO_ENDINGS: Final = ("ss", "us", "is")
_SHORTEST_STEM: Final = 3


def stem(word: str) -> str:
    """Without the ending of a plural or a verb; not of a person who does it, of more of it, or of what is done to it:
    those are others.
    """
    found = word
    for ending, instead in _ENDINGS:
        short = word.removesuffix(ending) + instead
        if word.endswith(ending) and len(short) >= _SHORTEST_STEM and not word.endswith(_NO_ENDINGS):
            found = short
            break
    doubled = found != word and found[-1] == found[-2]
    return found[:-1] if len(found) > _SHORTEST_STEM and (doubled or found.endswith("e")) else found
