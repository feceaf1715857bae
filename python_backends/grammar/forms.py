"""A constraint as the compiler reads it, and tokenizers to compile it for."""

import json

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper, grammar_from

from python_backends.messages import Constraint

END = 256


class _Bytes:
    """The smallest vocabulary: every byte is a token, and one more ends the answer."""

    eos_token_id = END
    bos_token_id = None
    tokens = (*(bytes([value]) for value in range(END)), b"<end>")
    special_token_ids = (END,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def byte_tokenizer() -> LLTokenizer:
    """For text of any model: what it is made of does not depend on a vocabulary."""
    return LLTokenizer(TokenizerWrapper(_Bytes()), slices=[])


def guidance_text(constraint: Constraint) -> str:
    """The grammar that the engine compiles of this constraint, in the compiler's own notation. Raises ValueError."""
    if constraint.json_schema is not None:
        return str(LLMatcher.grammar_from_json_schema(constraint.json_schema))
    if constraint.json_object:
        return str(LLMatcher.grammar_from_json_schema('{"type": "object"}'))
    if constraint.regex is not None:
        return grammar_from("regex", constraint.regex)
    if constraint.choice is not None:
        return grammar_from("choice", json.dumps(constraint.choice))
    return grammar_from("grammar", constraint.grammar or "")
