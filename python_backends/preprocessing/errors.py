"""What is wrong with a request, in words for the one who sent it."""


class RequestError(ValueError):
    """The request cannot be served as it stands; sending it again unchanged cannot help.

    `param` is the path of the offending field as the client wrote it (`messages[0].content`), or None.
    `code` is a stable machine-readable word from docs/api.md.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
