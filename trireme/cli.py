"""The command `trireme`. Every failure is a sentence on stderr and exit code 1; nothing here decides anything."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.table import Table

from trireme import (
    cli_adapters,
    cli_arms,
    cli_backends,
    cli_cache,
    cli_experiments,
    cli_keys,
    cli_mirror,
    cli_rollouts,
    cli_tenants,
    cli_versions,
)
from trireme.cli_usage import usage
from trireme.doctor import examine
from trireme.errors import TriremeError
from trireme.models import prepare_models
from trireme.options import Config
from trireme.serve import serve as serve_stack
from trireme.settings import load_settings
from trireme.terminal import say
from trireme.triton import assemble_backends

app = typer.Typer(
    help="Trireme: large language models on NVIDIA Triton Inference Server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(cli_keys.app, name="keys")
app.add_typer(cli_backends.app, name="backends")
app.add_typer(cli_cache.app, name="cache")
app.add_typer(cli_adapters.app, name="adapters")
app.add_typer(cli_tenants.app, name="tenants")
app.add_typer(cli_rollouts.app, name="rollouts")
app.add_typer(cli_experiments.app, name="experiments")
app.add_typer(cli_mirror.app, name="mirror")
app.add_typer(cli_arms.app, name="arms")
app.add_typer(cli_versions.app, name="versions")
app.command()(usage)


def main() -> None:
    """Entry point of the `trireme` command."""
    try:
        app()
    except TriremeError as error:
        say(str(error))
        sys.exit(1)


@app.command()
def serve(config: Config = None) -> None:
    """Run everything on this machine: Valkey, Triton and its models, gateway, control plane. Ctrl-C stops it."""
    serve_stack(load_settings(config), Console())


@app.command()
def prepare(config: Config = None) -> None:
    """Make the models and Triton's backend directory, as `serve` would on its first start."""
    settings = load_settings(config)
    console = Console(stderr=True)
    with console.status("preparing"):
        prepare_models(settings, console.print)
        assemble_backends(settings.state_dir)
    console.print(f"Models in {settings.models_dir} and the backend directory are ready.", soft_wrap=True)


@app.command()
def doctor(config: Config = None) -> None:
    """Check this machine, the installation, models and ports; exit code 1 when something is wrong."""
    checks = examine(load_settings(config))
    table = Table("", "check", "found", box=None)
    for check in checks:
        mark = "[red]✗[/red]" if check.problem else "[green]✓[/green]"
        table.add_row(mark, check.name, check.found)
    Console().print(table)
    problems = [f"{check.name}: {check.problem}" for check in checks if check.problem]
    if problems:
        raise TriremeError("\n".join(["", *problems]))
