"""Compiles in a process of its own: whatever a schema, a regex or a grammar does to the compiler, it does it here.

    python -m python_backends.grammar.worker MODEL_DIR CPU_SECONDS

Messages on standard input and output are a length (4 bytes, little-endian) and JSON: a Task, then its Verdict. The
kernel ends a process that computes for longer than CPU_SECONDS on one task, or wants more memory than it may have.
"""

import json
import resource
import signal
import sys
from pathlib import Path
from typing import IO

import msgspec
from llguidance import LLTokenizer

from python_backends.grammar.compiler import Compiler
from python_backends.messages import Constraint
from python_backends.preprocessing.errors import RequestError

MEMORY_BYTES = 4 << 30
LENGTH_BYTES = 4


class Task(msgspec.Struct, frozen=True):
    """`param`: the name of the client's field, for the refusal."""

    constraint: Constraint
    param: str


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """The constraint as it is to be kept, or why not: words for the client, and a code of docs/api.md."""

    constraint: Constraint | None = None
    message: str = ""
    code: str = ""


def read_message(stream: IO[bytes]) -> bytes | None:
    """None at the end of the stream."""
    header = stream.read(LENGTH_BYTES)
    if len(header) < LENGTH_BYTES:
        return None
    length = int.from_bytes(header, "little")
    message = stream.read(length)
    return message if len(message) == length else None


def write_message(stream: IO[bytes], message: bytes) -> None:
    stream.write(len(message).to_bytes(LENGTH_BYTES, "little") + message)
    stream.flush()


def model_tokenizer(model_dir: Path) -> LLTokenizer:
    """The engine's vocabulary."""
    return LLTokenizer((model_dir / "tokenizer.json").read_text("utf-8"))


def judge(compiler: Compiler, task: Task) -> Verdict:
    try:
        return Verdict(constraint=compiler.check(task.constraint, task.param))
    except RequestError as error:
        return Verdict(message=error.message, code=error.code)


def serve(model_dir: Path, cpu_s: float, asked: IO[bytes], answers: IO[bytes]) -> None:
    """Until nobody asks any more. The first answer is an empty verdict: ready."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    compiler = Compiler([model_tokenizer(model_dir)])
    compiler.check(Constraint(json_object=True), "")
    write_message(answers, msgspec.json.encode(Verdict()))
    while (message := read_message(asked)) is not None:
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        verdict = judge(compiler, msgspec.json.decode(message, type=Task))
        signal.setitimer(signal.ITIMER_PROF, 0)
        write_message(answers, msgspec.json.encode(verdict))


if __name__ == "__main__":
    serve(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.stdin.buffer, sys.stdout.buffer)
