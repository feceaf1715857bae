"""How a stream ends badly."""

from python_backends.messages import ErrorBody


class StreamError(Exception):
    """The stream ends with an error: the engine's, or that of an answer that is not what was asked for."""

    def __init__(self, body: ErrorBody) -> None:
        super().__init__(body.message)
        self.body = body
