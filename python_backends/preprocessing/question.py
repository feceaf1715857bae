"""What a request asks: the text that the model router and the semantic cache look at."""

from typing import Final

from python_backends.preprocessing.schema import ChatRequest, GenerationRequest

# Far more than an embedding model reads; beyond it a text is only longer.
MOST_CHARACTERS: Final = 8192


def question_of(request: GenerationRequest) -> str:
    """The last turn of the user, or the first prompt of a completion; its beginning where it is long.

    Empty where there is no text: a prompt of token ids, a chat without a user.
    """
    if isinstance(request, ChatRequest):
        turns = (message.text for message in reversed(request.messages or ()) if message.role == "user")
        return next(turns, "")[:MOST_CHARACTERS]
    first = request.prompt if isinstance(request.prompt, str) else next(iter(request.prompt or ()), "")
    return first[:MOST_CHARACTERS] if isinstance(first, str) else ""
