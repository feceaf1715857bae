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
# They change no answer.
FILLERS: Final = _words(
    "a an the is are am be been being do does of in on at for to with there it its so such very really actually just "
    "please tell explain some any also as ever exactly s re ve ll d m"
)
SAME: Final = {
    "could": "can", "may": "can", "might": "can", "would": "will", "shall": "will", "were": "was", "did": "was",
    "had": "have", "has": "have", "having": "have", "best": "good", "top": "good", "great": "good",
}  # fmt: skip
_ENDINGS: Final = (
    ("sses", "ss"), ("ies", "y"), ("ied", "y"), ("ings", ""), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""),
)  # fmt: skip
_NO_ENDINGS: Final = ("ss", "us", "is")
_SHORTEST_STEM: Final = 3


def stem(word: str) -> str:
    """Without the ending of a plural or a verb; not of a person who does it, or of more of it: those are others."""
    found = word
    for ending, instead in _ENDINGS:
        short = word.removesuffix(ending) + instead
        if word.endswith(ending) and len(short) >= _SHORTEST_STEM and not word.endswith(_NO_ENDINGS):
            found = short
            break
    doubled = found != word and found[-1] == found[-2]
    return found[:-1] if len(found) > _SHORTEST_STEM and (doubled or found.endswith("e")) else found
