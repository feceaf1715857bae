"""What can be seen of a text without understanding it: a few numbers that say how it is written."""

import math
import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_MATHS = re.compile(r"[=+*/^<>±√∑∫≤≥π%]|\\[a-z]+|\$")
_CODE = re.compile(r"[{}\[\];`]|=>|->|\(\)|\b(?:def|class|return|import|function|select)\b", re.IGNORECASE)
_RECALL = re.compile(r"\b(?:what|who|whom|whose|when|where|which)\b", re.IGNORECASE)
_REASONING = re.compile(
    r"\b(?:why|how|explain|prove|derive|compare|analy[sz]e|calculate|determine|find|if|suppose|assume)\b", re.IGNORECASE
)
_NEGATION = re.compile(r"\b(?:not|never|no|none|except|least|without)\b|n't", re.IGNORECASE)

# The order is part of the trained weights: a new one is added at the end, with weights trained anew.
NAMES: Final = (
    "length",
    "words",
    "word_length",
    "lines",
    "numbers",
    "digits",
    "maths",
    "code",
    "capitals",
    "foreign",
    "questions",
    "recall",
    "reasoning",
    "negations",
)


def features_of(text: str) -> NDArray[np.float32]:
    """FP32[len(NAMES)]: logarithms of counts, and shares of characters or words."""
    size, words = max(len(text), 1), _WORD.findall(text)
    count = max(len(words), 1)
    numbers = (
        math.log1p(len(text)),
        math.log1p(len(words)),
        sum(map(len, words)) / count,
        math.log1p(text.count("\n")),
        math.log1p(_count(_NUMBER, text)),
        sum(map(str.isdigit, text)) / size,
        math.log1p(_count(_MATHS, text)),
        math.log1p(_count(_CODE, text)),
        sum(word[0].isupper() for word in words) / count,
        sum(not character.isascii() for character in text) / size,
        math.log1p(text.count("?")),
        math.log1p(_count(_RECALL, text)),
        math.log1p(_count(_REASONING, text)),
        math.log1p(_count(_NEGATION, text)),
    )
    return np.array(numbers, dtype=np.float32)


def _count(pattern: "re.Pattern[str]", text: str) -> int:
    return sum(1 for _ in pattern.finditer(text))
