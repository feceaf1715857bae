"""`{"name": …, "parameters": {…}}` as the whole answer, perhaps behind `<|python_tag|>`: Llama 3."""

from collections.abc import Collection

from python_backends.postprocessing.tools.json_calls import JsonParser

MARK = "<|python_tag|>"


class Llama3Parser(JsonParser):
    """Several calls stand in a row, with semicolons between them."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names, MARK)
