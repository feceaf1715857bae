"""`python -m benchmarks`: every measurement that the documentation reports."""

from typing import Annotated

import typer

from benchmarks import engine, overhead

app = typer.Typer(help=__doc__, no_args_is_help=False, add_completion=False)
Write = Annotated[bool, typer.Option("--write", help="Record the result in docs/benchmarks.md.")]


@app.command("engine")
def run_engine(rounds: int = 5, write: Write = False) -> None:
    """Trireme's whole chain against vLLM's own API server (about 6 minutes)."""
    if not engine.run(rounds, write=write):
        raise typer.Exit(1)


@app.command("overhead")
def run_overhead(requests: int = 1000, write: Write = False) -> None:
    """What the gateway adds to a request (about 2 minutes)."""
    if not overhead.run(requests, write=write):
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def run_all(context: typer.Context) -> None:
    """Without a command: everything."""
    if context.invoked_subcommand is None:
        met = [overhead.run(1000, write=False), engine.run(5, write=False)]
        if not all(met):
            raise typer.Exit(1)


if __name__ == "__main__":
    app()
