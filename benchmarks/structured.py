"""What forms of answers cost: compiling them, checking answers, and decoding under them on the real engine."""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import xgrammar
from llguidance import LLMatcher
from transformers import AutoTokenizer

from benchmarks.load import Round, Target, burst
from benchmarks.report import machine, publish, table
from python_backends.grammar.checker import GrammarChecker
from python_backends.grammar.compiler import Compiler
from python_backends.grammar.forms import guidance_text
from python_backends.grammar.worker import model_tokenizer
from python_backends.messages import Constraint
from python_backends.postprocessing.grammar import Grammars
from tests.support.schemas import SCHEMAS
from trireme.settings import Settings
from trireme.stack import EmbeddedStack, isolated_settings

TOKENS = 64
LEVELS = (1, 8, 16)
GOAL = 0.9
TOKEN_CHARACTERS = 4
# Never whole within TOKENS, so that both ways of decoding write equally many.
ENDLESS = {
    "type": "array",
    "minItems": 100,
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
}
FORM = {"type": "json_schema", "json_schema": {"name": "people", "schema": ENDLESS, "strict": True}}
TEXT = "[" + '{"name": "Ada Lovelace", "age": 36}, ' * 50
Seconds = list[float]


def run(rounds: int, *, write: bool) -> bool:
    """Measure, print and (with `write`) record; returns whether the goal was met."""
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        settings = isolated_settings(Path(scratch), engine="vllm")
        with EmbeddedStack(settings) as stack:
            target = Target("Trireme", f"{stack.gateway_url}/v1", settings.model.name, stack.dev_key)
            decoded = {level: measure(target, level, rounds) for level in LEVELS}
        parts = [compiling(settings.model.path), checking(), compilers(settings.model.path)]
    text, met = summary(decoded, rounds, settings, parts)
    publish("structured", text, write=write)
    return met


def measure(target: Target, streams: int, rounds: int) -> dict[str, list[Round]]:
    """One warm-up and `rounds` pairs, free and constrained taking turns at being first."""
    done: dict[str, list[Round]] = {"free": [], "constrained": []}
    for number in range(rounds + 1):
        prompts = [f"List a hundred people of voyage {streams}-{number}-{one} as JSON." for one in range(streams)]
        for way in sorted(done, reverse=bool(number % 2)):
            fields = {"response_format": FORM, "ignore_eos": False} if way == "constrained" else {}
            found = asyncio.run(burst(target, prompts, TOKENS, fields))
            sys.stderr.write(f"{streams:2} streams, round {number}: {way} {found.throughput:.1f} tok/s\n")
            if number:
                done[way].append(found)
    return done


def compiling(model_dir: Path) -> str:
    """Through the process, as the gateway does it: the first time, and again."""
    checker = GrammarChecker(model_dir)
    wanted = [Constraint(json_schema=msgspec.json.encode(schema).decode()) for schema in SCHEMAS.values()]
    checker.check(Constraint(json_object=True), "warm")
    cold = [timed(lambda one=one: checker.check(one, "schema")) for one in wanted]
    known = [timed(lambda one=one: checker.recall(one, "schema")) for one in wanted]
    checker.stop()
    return (
        f"Compiling {len(wanted)} schemas for the model's vocabulary, in the gateway's process for that: "
        f"p50 {spread(cold)}; known ones: p50 {spread(known)}.\n"
    )


def checking() -> str:
    """What `postprocess` does with each token of an answer that has a form."""
    constraint = Compiler().check(Constraint(json_schema=msgspec.json.encode(ENDLESS).decode()), "schema")
    grammars = Grammars()
    pieces = [TEXT[at : at + TOKEN_CHARACTERS] for at in range(0, len(TEXT), TOKEN_CHARACTERS)]
    begun = statistics.median(timed(lambda: grammars.verifier(constraint, close=False)) for _ in range(100))
    rounds = []
    for _ in range(20):
        verifier = grammars.verifier(constraint, close=False)
        rounds.append(timed(lambda verifier=verifier: [verifier.feed(piece) for piece in pieces]) / len(pieces))
    return (
        f"Checking an answer in `postprocess`: {statistics.median(rounds) * 1e6:.1f} µs a token of {TOKEN_CHARACTERS} "
        f"characters, {begun * 1e6:.0f} µs to begin with a grammar that is known.\n"
    )


def compilers(model_dir: Path) -> str:
    """llguidance, which the engine is told to use, beside xgrammar, which vLLM would choose for most schemas."""
    schema = msgspec.json.encode(ENDLESS).decode()
    rows = [_row("llguidance", *_llguidance(model_dir, schema)), _row("xgrammar", *_xgrammar(model_dir, schema))]
    header = ["compiler", "compile ms p50", "mask µs p50 / p99", "of our schemas it takes, kept or not"]
    return table(header, rows) + "\n"


def _row(name: str, compiled: Seconds, masks: Seconds, taken: int) -> list[str]:
    ends = statistics.quantiles(masks, n=100)
    masked = f"{statistics.median(masks) * 1e6:.0f} / {ends[98] * 1e6:.0f}"
    return [name, f"{statistics.median(compiled) * 1e3:.2f}", masked, f"{taken} of {len(SCHEMAS)}"]


def _llguidance(model_dir: Path, schema: str) -> tuple[Seconds, Seconds, int]:
    tokenizer, compiler = model_tokenizer(model_dir), Compiler()

    def begin(constraint: Constraint) -> LLMatcher:
        return LLMatcher(tokenizer, guidance_text(constraint), log_level=0)

    ready = [
        compiler.check(Constraint(json_schema=msgspec.json.encode(one).decode()), "schema") for one in SCHEMAS.values()
    ]
    compiled = [timed(lambda one=one: begin(one)) for one in ready]
    matcher = begin(compiler.check(Constraint(json_schema=schema), "schema"))
    masks = []
    for token in tokenizer.tokenize_str(TEXT):
        masks.append(timed(matcher.compute_bitmask))
        matcher.consume_token(token)
    return compiled, masks, sum(not begin(one).is_error() for one in ready)


def _xgrammar(model_dir: Path, schema: str) -> tuple[Seconds, Seconds, int]:
    tokenizer: Any = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    about = xgrammar.TokenizerInfo.from_huggingface(tokenizer)
    compiler = xgrammar.GrammarCompiler(about, max_threads=1, cache_enabled=False)
    compiled, taken = [], 0
    for one in SCHEMAS.values():
        started = time.perf_counter()
        try:
            compiler.compile_json_schema(msgspec.json.encode(one).decode())
        except RuntimeError:
            continue
        compiled.append(time.perf_counter() - started)
        taken += 1
    matcher = xgrammar.GrammarMatcher(compiler.compile_json_schema(schema))
    mask, masks = xgrammar.allocate_token_bitmask(1, about.vocab_size), []
    for token in tokenizer.encode(TEXT):
        masks.append(timed(lambda: matcher.fill_next_token_bitmask(mask)))
        matcher.accept_token(token)
    return compiled, masks, taken


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def spread(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    return f"{statistics.median(ordered) * 1e3:.3f} ms, worst {ordered[-1] * 1e3:.3f} ms"


def summary(
    decoded: dict[int, dict[str, list[Round]]], rounds: int, settings: Settings, parts: Sequence[str]
) -> tuple[str, bool]:
    rows, met = [], True
    for level, done in decoded.items():
        free, bound = (statistics.median(one.throughput for one in done[way]) for way in ("free", "constrained"))
        first, bound_first = (
            statistics.median(answer.first for one in done[way] for answer in one.answers)
            for way in ("free", "constrained")
        )
        met = met and bound / free >= GOAL
        speeds = [f"{free:.1f}", f"{bound:.1f}", f"**{bound / free:.3f}**"]
        rows.append([str(level), *speeds, f"{1000 * first:.0f}", f"{1000 * bound_first:.0f}"])
    header = ["streams", "free tok/s", "constrained tok/s", "ratio", "free TTFT p50 ms", "constrained TTFT p50 ms"]
    text = (
        f"`python -m benchmarks structured --rounds {rounds}` · {machine()}\n\n"
        f"{settings.model.name}, {TOKENS} tokens an answer, greedy, streaming, through the whole chain; constrained: "
        f"a JSON schema of objects in an array. Medians of {rounds} interleaved rounds. Goal: ratio ≥ {GOAL}: "
        f"{'met' if met else 'not met everywhere'}.\n\n{table(header, rows)}\n\n"
    )
    return text + "\n".join(parts), met
