"""`python -m benchmarks`: every measurement that the documentation reports."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import (
    adapters,
    affinity,
    cache,
    classes,
    embeddings,
    engine,
    experiments,
    flood,
    identity,
    limits,
    overhead,
    plan,
    preemption,
    repeats,
    rollouts,
    routing,
    scheduling,
    semantic,
    structured,
    tracing,
)

WITH_PEERS = frozenset({"identity", "cache"})

app = typer.Typer(help=__doc__, no_args_is_help=False, add_completion=False)
Write = Annotated[bool, typer.Option("--write", help="Record the result in docs/benchmarks.md.")]
LiteLlm = Annotated[
    Path | None,
    typer.Option(help="A virtual environment with litellm[proxy]; made when left out.", show_default=False),
]


@app.command("engine")
def run_engine(rounds: int = 5, write: Write = False) -> None:
    """Trireme's whole chain against vLLM's own API server (about 6 minutes)."""
    _end(engine.run(rounds, write=write))


@app.command("overhead")
def run_overhead(requests: int = 1000, write: Write = False) -> None:
    """What the gateway adds to a request (about 2 minutes)."""
    _end(overhead.run(requests, write=write))


@app.command("identity")
def run_identity(requests: int = identity.REQUESTS, litellm: LiteLlm = None, write: Write = False) -> None:
    """Identity, limits and ledger, beside LiteLLM's proxy (about 5 minutes, and its installation)."""
    _end(identity.run(requests, write=write, litellm=litellm))


@app.command("cache")
def run_cache(requests: int = cache.REQUESTS, litellm: LiteLlm = None, write: Write = False) -> None:
    """Hits and misses of the cache, beside LiteLLM's with Redis (about 4 minutes, and its installation)."""
    _end(cache.run(requests, write=write, litellm=litellm))


@app.command("semantic")
def run_semantic(
    data: Annotated[Path | None, typer.Option(help="Labelled pairs of questions, CSV.", show_default=False)] = None,
    requests: int = 200,
    write: Write = False,
) -> None:
    """Answers to other words: right and wrong, and the time to find them (about 2 minutes)."""
    _end(semantic.run(data, requests, write=write))


@app.command("repeats")
def run_repeats(requests: int = repeats.REQUESTS, write: Write = False) -> None:
    """Traffic that repeats itself, with and without the cache, on the real engine (about 5 minutes)."""
    _end(repeats.run(requests, write=write))


@app.command("limits")
def run_limits(requests: int = 2000, write: Write = False) -> None:
    """One reservation and its settlement (seconds)."""
    _end(limits.run(requests, write=write))


@app.command("scheduling")
def run_scheduling(write: Write = False) -> None:
    """Admission: its cost, and latency by class over load (about a minute)."""
    _end(scheduling.run(write=write))


@app.command("flood")
def run_flood(rounds: int = 3, write: Write = False) -> None:
    """One tenant's latency beside another's flood, on the scripted engine (about 3 minutes)."""
    _end(flood.run(rounds, write=write))


@app.command("preemption")
def run_preemption(rounds: int = 3, write: Write = False) -> None:
    """Interactive requests while batch work fills the engine, against vLLM's own policy (about 17 minutes)."""
    _end(preemption.run(rounds, write=write))


@app.command("classes")
def run_classes(seconds: float = 20.0, write: Write = False) -> None:
    """Interactive requests beside batch work, through the whole chain, against vLLM's server (about 6 minutes)."""
    _end(classes.run(seconds, write=write))


@app.command("routing")
def run_routing(write: Write = False) -> None:
    """A routing decision, and what the strategies make of conversations (about a minute)."""
    _end(routing.run(write=write))


@app.command("affinity")
def run_affinity(rounds: int = 4, write: Write = False) -> None:
    """Conversations on two real engines, with each strategy (about 5 minutes)."""
    _end(affinity.run(rounds, write=write))


@app.command("adapters")
def run_adapters(rounds: int = 4, write: Write = False) -> None:
    """First use of an adapter, and tokens a second of mixed batches (about 4 minutes)."""
    _end(adapters.run(rounds, write=write))


@app.command("tracing")
def run_tracing(requests: int = 4500, write: Write = False) -> None:
    """CPU time of the gateway without tracing, at 1 % and at 100 % (about a minute)."""
    _end(tracing.run(requests, write=write))


@app.command("embeddings")
def run_embeddings(rounds: int = 5, write: Write = False) -> None:
    """Vectors through the whole chain against the bare encoder (about 2 minutes)."""
    _end(embeddings.run(rounds, write=write))


@app.command("plan")
def run_plan(requests: int = 300, write: Write = False) -> None:
    """How hard is it? What the question and the choice of a model cost (about 2 minutes)."""
    _end(plan.run(requests, write=write))


@app.command("structured")
def run_structured(rounds: int = 5, write: Write = False) -> None:
    """Constrained against free decoding, and what compiling and checking forms of answers takes (about 4 minutes)."""
    _end(structured.run(rounds, write=write))


@app.command("rollouts")
def run_rollouts(write: Write = False) -> None:
    """How soon a worse version is rolled back, and how often a good one is (minutes)."""
    _end(rollouts.run(write=write))


@app.command("experiments")
def run_experiments(
    played: int = experiments.PLAYED, requests: int = experiments.MIRRORED, write: Write = False
) -> None:
    """Whether experiments are as sure as they say, and what mirroring costs a client (a few minutes)."""
    _end(experiments.run(played, requests, write=write))


@app.callback(invoke_without_command=True)
def run_all(context: typer.Context) -> None:
    """Without a command: everything but the peers that would have to be installed."""
    if context.invoked_subcommand is None:
        met = [_met(run) for run in without_peers()]
        _end(all(met))


def without_peers() -> list[Callable[[], None]]:
    """The commands that need nothing installed, each as it is without options."""
    found = [(one.name, one.callback) for one in app.registered_commands]
    return [run for name, run in found if run is not None and name not in WITH_PEERS]


def _met(run: Callable[[], None]) -> bool:
    try:
        run()
    except typer.Exit:
        return False
    return True


def _end(met: bool) -> None:
    if not met:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
