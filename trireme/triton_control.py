"""Triton's own control API: what is loaded, load, unload.

By gRPC. Triton's HTTP server handles a load on one of the threads that carry streams: those streams stand still until
the model is loaded, and lose the end of their answers when much has piled up by then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from trireme.errors import TriremeError

QUICK_S = 10.0
# Of a model, version → state: "READY", "LOADING", "UNLOADING", "UNAVAILABLE (why)".
States = Mapping[str, Mapping[str, str]]


class TritonControl:
    """`address`: host:port of Triton's gRPC. Raises TriremeError."""

    def __init__(self, address: str) -> None:
        # Only these commands need it, and it may be missing where the others run.
        from tritonclient.grpc import InferenceServerClient

        self._address = address
        self._client = InferenceServerClient(address)

    def load(self, model: str, timeout_s: float) -> None:
        """With every version of it, and of the models that it is made of, that is new in the repository or gone."""
        with self._refusals(f"Triton could not load {model}"):
            self._client.load_model(model, client_timeout=timeout_s)

    def unload(self, model: str) -> None:
        """Returns before its last requests have ended."""
        with self._refusals(f"Triton could not unload {model}"):
            self._client.unload_model(model, client_timeout=QUICK_S)

    def states(self) -> States:
        with self._refusals("Triton does not tell what it has loaded"):
            index: Any = self._client.get_model_repository_index(client_timeout=QUICK_S)
        found: dict[str, dict[str, str]] = {}
        for one in index.models:
            if one.version:
                reason = f" ({_first_words(one.reason)})" if one.reason else ""
                found.setdefault(one.name, {})[one.version] = f"{one.state}{reason}"
        return found

    @contextmanager
    def _refusals(self, what: str) -> Iterator[None]:
        from tritonclient.utils import InferenceServerException

        try:
            yield
        except InferenceServerException as error:
            raise TriremeError(f"{what} (gRPC {self._address}): {_first_words(error.message())}") from error


def _first_words(message: str | None) -> str:
    """Without the traceback's lines of our own code."""
    return (message or "no reason given").strip().partition("\n\nAt:")[0]
