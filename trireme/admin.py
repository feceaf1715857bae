"""A running gateway's admin API, for commands that change what only it can change."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from trireme.errors import TriremeError
from trireme.keys import dev_key_file
from trireme.parts import reachable
from trireme.settings import Settings, load_settings

KEY_VARIABLE = "TRIREME_API_KEY"
URL_VARIABLE = "TRIREME_GATEWAY_URL"
TIMEOUT_S = 10.0

Key = Annotated[
    str | None,
    typer.Option(
        help=f"API key with the scope admin; else ${KEY_VARIABLE}, else the stack's own development key.",
        show_default=False,
    ),
]
Url = Annotated[
    str | None,
    typer.Option(help=f"Address of the gateway; else ${URL_VARIABLE}, else the stack's own.", show_default=False),
]


@dataclass(frozen=True)
class Gateway:
    url: str
    key: str

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's body. Raises: TriremeError."""
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)  # noqa: S310 - checked
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310 - as above
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise TriremeError(f"The gateway refused: {_message(error)}.") from error
        except (OSError, http.client.HTTPException) as error:
            raise TriremeError(
                f"The gateway at {self.url} does not answer: start it with `make serve` first."
            ) from error
        except ValueError as error:
            raise TriremeError(f"What answers at {self.url} is no gateway: is the address right?") from error


def gateway_of(url: str | None, key: str | None, config: Path | None) -> Gateway:
    """Raises: TriremeError."""
    settings = load_settings(config)
    address = url or os.environ.get(URL_VARIABLE) or _own_url(settings)
    if not address.startswith(("http://", "https://")):
        raise TriremeError(f"{address} is no address of a gateway: write http://HOST:PORT.")
    return Gateway(address.rstrip("/"), _key(key, settings))


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {error.code}"


def _own_url(settings: Settings) -> str:
    return f"http://{reachable(settings.host)}:{settings.ports.gateway}"


def _key(key: str | None, settings: Settings) -> str:
    """Raises: TriremeError when there is none."""
    given = key or os.environ.get(KEY_VARIABLE)
    if given:
        return given
    file = dev_key_file(settings)
    if not file.exists():
        raise TriremeError(f"There is no key: give one with --key or {KEY_VARIABLE}; it needs the scope admin.")
    return file.read_text().strip()
