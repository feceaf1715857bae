"""`trireme serve`: the stack in the foreground, with what a person at the terminal wants to see."""

from __future__ import annotations

import json
import logging
import shlex
import signal
import threading
import time
from contextlib import suppress
from types import FrameType

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from trireme.keys import dev_key_file
from trireme.parts import log_file
from trireme.settings import Settings
from trireme.stack import EmbeddedStack

LOG = logging.getLogger(__name__)
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminal:
    """Progress lines; on a real terminal also a spinner with the time, until the stack is up."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self.spinner = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self.spinner.add_task("starting")

    def say(self, text: str) -> None:
        """One line, and into the log."""
        LOG.info("%s", text)
        self.line(f"{time.strftime('%H:%M:%S')}  {text}")
        self.spinner.update(self._task, description=text)

    def line(self, text: str = "") -> None:
        """As it is: not wrapped, coloured or read as markup, so that it can be copied."""
        # A terminal or pipe that has gone is no reason to leave children behind; rich answers it with SystemExit.
        with suppress(OSError, SystemExit):
            self._console.print(text, soft_wrap=True, markup=False, highlight=False)

    def show_ready(self, stack: EmbeddedStack) -> None:
        """Where it is, how to get in, what to try."""
        self.spinner.stop()
        settings = stack.settings
        self.line()
        self.line(f"Trireme is ready after {time.monotonic() - self._began:.0f} s.")
        self.line(f"  URL      {stack.gateway_url}/v1")
        self.line(f"  API key  {stack.dev_key}   (also in {dev_key_file(settings)})")
        self.line(f"  Triton   {stack.triton_url} (HTTP), {stack.triton_grpc_url} (gRPC), {stack.metrics_url}")
        self.line(f"  Logs     {settings.state_dir / 'logs'}")
        self.line()
        self.line(curl_line(stack.gateway_url, stack.dev_key, settings.model.name))
        self.line()
        self.line("Ctrl-C stops everything.")


def serve(settings: Settings, console: Console) -> None:
    """Until SIGINT, SIGTERM or SIGHUP. Raises: TriremeError when the stack cannot start."""
    log_to_file(settings)
    stop = threading.Event()

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    for number in STOP_SIGNALS:
        signal.signal(number, ask_to_stop)
    terminal = Terminal(console)
    stack = EmbeddedStack(settings, say=terminal.say)
    with terminal.spinner:
        stack.run(stop, when_up=lambda: terminal.show_ready(stack))


def curl_line(url: str, key: str, model: str) -> str:
    """One line for a POSIX shell."""
    question = {"role": "user", "content": "What is the capital of France?"}
    body = {"model": model, "messages": [question], "max_tokens": 32, "temperature": 0}
    words = ["curl", f"{url}/v1/chat/completions"]
    words += ["-H", f"Authorization: Bearer {key}", "-H", "Content-Type: application/json", "-d", json.dumps(body)]
    return shlex.join(words)


def log_to_file(settings: Settings) -> None:
    """Everything this package logs goes to `logs/stack.log`, with times."""
    handler = logging.FileHandler(log_file(settings, "stack"))
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("trireme")
    logger.addHandler(handler)
    logger.setLevel(settings.log_level.upper())
