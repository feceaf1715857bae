"""`trireme backends`: the Triton servers of a running gateway, by its admin API."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from trireme.errors import TriremeError
from trireme.keys import dev_key_file
from trireme.options import AsJson, Config
from trireme.parts import reachable
from trireme.settings import Settings, load_settings

app = typer.Typer(help="Triton servers behind the gateway.", no_args_is_help=True)

KEY_VARIABLE = "TRIREME_API_KEY"
URL_VARIABLE = "TRIREME_GATEWAY_URL"
PATH = "/admin/v1/backends"
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
Identifier = Annotated[str, typer.Argument(metavar="ID", help="As `backends list` shows it.")]


@app.command("list")
def list_backends(as_json: AsJson = False, url: Url = None, key: Key = None, config: Config = None) -> None:
    """Show all backends, as the gateway sees them now."""
    rows = _gateway(url, key, config).ask("GET", PATH)["data"]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("id", "url", "group", "state", "requests", "tokens", "saturation", box=None)
    for row in rows:
        numbers = (str(row["in_flight_requests"]), str(row["in_flight_tokens"]), f"{row['saturation']:.0%}")
        table.add_row(row["id"], row["url"], row["group"], state_of(row), *numbers)
    Console().print(table)


@app.command()
def add(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="A name of its own.")],
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Triton's HTTP address: http://host:8000.")],
    *,
    group: Annotated[str, typer.Option(help="Which arms of models use it.")] = "default",
    model: Annotated[
        list[str] | None,
        typer.Option(help="May be given more than once: only these models; all, when left out.", show_default=False),
    ] = None,
    capacity: Annotated[
        int | None, typer.Option(min=1, help="Tokens that it runs at the same time; else what its engine says.")
    ] = None,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Use one more Triton server, from its first token on."""
    body = {"id": identifier, "url": address, "group": group, "models": model, "capacity_tokens": capacity}
    _gateway(url, key, config).ask("POST", PATH, body)
    _say(f"{identifier} is added; it gets requests as soon as it has generated a token.")


@app.command()
def remove(identifier: Identifier, url: Url = None, key: Key = None, config: Config = None) -> None:
    """Use a server no more; what runs there may finish."""
    _gateway(url, key, config).ask("DELETE", _path(identifier))
    _say(f"{identifier} is removed.")


@app.command()
def drain(identifier: Identifier, url: Url = None, key: Key = None, config: Config = None) -> None:
    """Send a server nothing new; `backends list` shows when nothing runs there any more."""
    row = _gateway(url, key, config).ask("POST", f"{_path(identifier)}/drain")
    _say(f"{identifier} gets nothing new; {row['in_flight_requests']} requests still run there.")


@app.command()
def undrain(identifier: Identifier, url: Url = None, key: Key = None, config: Config = None) -> None:
    """Use a drained server again."""
    _gateway(url, key, config).ask("POST", f"{_path(identifier)}/undrain")
    _say(f"{identifier} is used again.")


def state_of(row: dict[str, Any]) -> str:
    """In a few words."""
    if row["draining"]:
        return "draining"
    if not row["healthy"]:
        return f"down: {row['reason']}"
    return "healthy" if row["circuit"] == "closed" else f"left out ({row['circuit'].replace('_', ' ')})"


def _path(identifier: str) -> str:
    return f"{PATH}/{quote(identifier, safe='')}"


@dataclass(frozen=True)
class _Gateway:
    url: str
    key: str

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's body. Raises: TriremeError."""
        request = urllib.request.Request(  # noqa: S310 - the address is the operator's own
            f"{self.url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {self.key}", "content-type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310 - as above
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise TriremeError(f"The gateway refused: {_message(error)}.") from error
        except (urllib.error.URLError, TimeoutError) as error:
            raise TriremeError(
                f"The gateway at {self.url} does not answer: start it with `make serve` first."
            ) from error


def _gateway(url: str | None, key: str | None, config: Path | None) -> _Gateway:
    settings = load_settings(config)
    address = url or os.environ.get(URL_VARIABLE) or _own_url(settings)
    return _Gateway(address.rstrip("/"), _key(key, settings))


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


def _say(text: str) -> None:
    Console(stderr=True).print(text, soft_wrap=True, markup=False, highlight=False)
