"""`trireme versions`: load a version of the model beside others into a running Triton, see them, unload one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.table import Table

from gateway.core.snapshot import DEFAULT_GROUP
from trireme.errors import TriremeError
from trireme.options import AsJson, Config
from trireme.parts import repository_path
from trireme.settings import LOOPBACK, Settings, load_settings
from trireme.terminal import say
from trireme.versions import Row, Server, Versions, check_model_dir

app = typer.Typer(help="Versions of the model, side by side in one Triton.", no_args_is_help=True)

Version = Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Its number.")]
Model = Annotated[
    str | None, typer.Option("--model", help="As clients name it; else the stack's own.", show_default=False)
]
Http = Annotated[
    str | None, typer.Option("--triton", help="Triton's HTTP address; else the stack's own.", show_default=False)
]
Grpc = Annotated[
    str | None, typer.Option("--triton-grpc", help="host:port of its gRPC; else the stack's own.", show_default=False)
]
Directory = Annotated[
    Path | None, typer.Option("--repository", help="What it loads; else the stack's own.", show_default=False)
]
Group = Annotated[str, typer.Option(help="The backends in routing that this Triton is one of.")]


@app.command()
def load(
    version: Version,
    *,
    model_dir: Annotated[
        Path | None,
        typer.Option(help="Its model directory, as Triton sees it; else that of the others.", show_default=False),
    ] = None,
    engine_args: Annotated[str, typer.Option(help="JSON object: what of vLLM's AsyncEngineArgs differs.")] = "{}",
    minutes: Annotated[float, typer.Option(min=0.1, help="Longest wait until it is loaded.")] = 30.0,
    model: Model = None,
    triton: Http = None,
    triton_grpc: Grpc = None,
    repository: Directory = None,
    group: Group = DEFAULT_GROUP,
    config: Config = None,
) -> None:
    """Load a version beside those that run; streams go on, and nobody gets it who does not ask for it."""
    settings = load_settings(config)
    overrides = _arguments(engine_args)
    if model_dir is not None:
        check_model_dir(model_dir, settings.model.path)
        overrides["model"] = str(model_dir.resolve())
    versions = _versions(settings, model, _server(settings, triton, triton_grpc, repository, group))
    versions.load(str(version), overrides, minutes * 60)


@app.command()
def unload(
    version: Version,
    *,
    minutes: Annotated[float, typer.Option(min=0.1, help="Longest wait for its last requests.")] = 30.0,
    model: Model = None,
    triton: Http = None,
    triton_grpc: Grpc = None,
    repository: Directory = None,
    group: Group = DEFAULT_GROUP,
    config: Config = None,
) -> None:
    """Unload a version that nobody is given to any more, when its last request has ended."""
    settings = load_settings(config)
    versions = _versions(settings, model, _server(settings, triton, triton_grpc, repository, group))
    versions.unload(str(version), minutes * 60)


@app.command("list")
def list_versions(
    *,
    as_json: AsJson = False,
    model: Model = None,
    triton: Http = None,
    triton_grpc: Grpc = None,
    repository: Directory = None,
    group: Group = DEFAULT_GROUP,
    config: Config = None,
) -> None:
    """Show the versions of the model: what Triton says of them, who is given to them, and what runs there now."""
    settings = load_settings(config)
    rows = _versions(settings, model, _server(settings, triton, triton_grpc, repository, group)).rows()
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    table = Table("version", "state", "arms", "requests", "default", "model directory", box=None)
    for row in rows:
        arms = " ".join(f"{name}={weight}" for name, weight in row.arms.items())
        requests = "" if row.in_flight is None else str(row.in_flight)
        directory = str(row.overrides.get("model", settings.model.path))
        table.add_row(row.version, _short(row), arms, requests, "yes" if row.default else "", directory)
    Console().print(table)


def _versions(settings: Settings, model: str | None, server: Server) -> Versions:
    return Versions(settings, server, model or settings.model.name, say)


def _server(settings: Settings, http: str | None, grpc: str | None, repository: Path | None, group: str) -> Server:
    """Raises TriremeError."""
    ports = settings.ports
    parts = urlsplit(http or f"http://{LOOPBACK}:{ports.triton_http}")
    if parts.scheme != "http" or parts.hostname is None or parts.port is None:
        raise TriremeError(f"--triton {http!r} is not http://host:port.")
    path = repository or repository_path(settings)
    if not (path / "chat" / "config.pbtxt").is_file():
        raise TriremeError(f"There is no model repository in {path}: start the stack with `make serve` first.")
    address = grpc or f"{LOOPBACK}:{ports.triton_grpc}"
    return Server(host=parts.hostname, port=parts.port, grpc=address, repository=path, group=group)


def _arguments(text: str) -> dict[str, Any]:
    """Raises TriremeError."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise TriremeError(f"--engine-args is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise TriremeError("--engine-args must be a JSON object.")
    if "model" in found:
        raise TriremeError("--engine-args: the model's directory is given with --model-dir.")
    return found


def _short(row: Row) -> str:
    """The state without what a traceback has to add."""
    return row.state.splitlines()[0]
