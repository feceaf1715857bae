"""Tokenizing on the event loop where it is quick, in a thread where it is not."""

from collections.abc import Callable

from gateway.tokens.offload import Offload
from python_backends.preprocessing.prompts import Source
from python_backends.preprocessing.tokenizer import TextTokenizer

# Up to here, rendering a prompt and looking it up takes well under a millisecond.
RECALL_BYTES = 128 * 1024
RECALL_PIECES = 64


async def token_ids(
    offload: Offload, size: int, pieces: int, source: Callable[[], Source], tokenizer: TextTokenizer
) -> list[list[int]]:
    """What is known from before needs no thread. `size`: bytes of the body; `pieces`: its messages or texts.

    Raises RequestError.
    """
    if size > RECALL_BYTES or pieces > RECALL_PIECES:
        return await offload.run(size, lambda: source().encode(tokenizer))
    found = source()
    ids = found.recall(tokenizer)
    return await offload.run(size, found.encode, tokenizer) if ids is None else ids
