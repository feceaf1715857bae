"""The embedded stack as one object: for `trireme serve` in the foreground, for tests as a context manager.

with EmbeddedStack(isolated_settings(tmp_path), parts={"valkey", "triton"}) as stack:
    requests.get(f"{stack.triton_url}/v2/health/ready")
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trireme import probes
from trireme.claims import check_ports, free_ports, state_lock
from trireme.errors import Interrupted, StartError, TriremeError
from trireme.keys import ensure_dev_key
from trireme.models import prepare_models
from trireme.parts import PARTS, reachable
from trireme.process import adopt_orphans
from trireme.settings import LOOPBACK, Ports, Settings, load_settings
from trireme.supervisor import Child, ChildSpec, Supervision, Supervisor

LOG = logging.getLogger(__name__)
ALL_PARTS = frozenset(PARTS)
FIRST_TOKEN_TIMEOUT_S = 120.0
POLL_S = 0.1


class EmbeddedStack:
    """Runs the chosen parts. Either call `run`, or use it as a context manager that does so in a thread."""

    def __init__(
        self,
        settings: Settings,
        parts: Iterable[str] = ALL_PARTS,
        say: Callable[[str], None] = LOG.info,
        supervision: Supervision | None = None,
    ) -> None:
        self.settings = settings
        self._parts = frozenset(parts)
        self._say = say
        self._supervision = supervision
        self._supervisor: Supervisor | None = None
        self._stop = threading.Event()
        self._up = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run_in_thread, name="embedded-stack")

    @property
    def gateway_url(self) -> str:
        return f"http://{reachable(self.settings.host)}:{self.settings.ports.gateway}"

    @property
    def triton_url(self) -> str:
        return f"http://{LOOPBACK}:{self.settings.ports.triton_http}"

    @property
    def triton_grpc_url(self) -> str:
        """Without a scheme, as tritonclient wants it."""
        return f"{LOOPBACK}:{self.settings.ports.triton_grpc}"

    @property
    def metrics_url(self) -> str:
        return f"http://{LOOPBACK}:{self.settings.ports.triton_metrics}/metrics"

    @property
    def valkey_url(self) -> str:
        return f"redis://{LOOPBACK}:{self.settings.ports.valkey}/0"

    @cached_property
    def dev_key(self) -> str:
        """Made on first use; Valkey must run."""
        return ensure_dev_key(self.settings)

    def child(self, name: str) -> Child:
        """A running part, with its `pid` and whether it is `ready`."""
        if self._supervisor is None:
            raise TriremeError("The stack does not run.")
        return self._supervisor.children[name]

    def kill(self, name: str) -> None:
        """SIGKILL one part, as a crash would."""
        if self._supervisor is not None:
            self._supervisor.kill(name)

    def wait_ready(self, timeout: float = 60.0) -> None:
        """After a crash: until every part is up again. Raises: TimeoutError."""
        deadline = time.monotonic() + timeout
        while self._supervisor is None or not self._supervisor.all_ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the stack was not ready again within {timeout:.0f} s")
            time.sleep(POLL_S)

    def run(self, stop: threading.Event, when_up: Callable[[], None] = lambda: None) -> None:
        """Start, keep running until `stop` is set, stop; returns when no process is left.

        Raises: TriremeError when it cannot start. A stop while starting is no error.
        """
        adopt_orphans()
        with state_lock(self.settings.state_dir):
            check_ports(self.settings, self._parts)
            try:
                self._run(stop, when_up)
            except Interrupted:
                return

    def _run(self, stop: threading.Event, when_up: Callable[[], None]) -> None:
        if "triton" in self._parts or "gateway" in self._parts:
            prepare_models(self.settings, self._say, stop.is_set)
        self._supervisor = Supervisor(self._specs(), self._say, self._supervision)
        try:
            self._supervisor.start(stop)
            if self._parts == ALL_PARTS:
                self._wait_for_first_token(self._supervisor, stop)
            when_up()
            self._supervisor.watch(stop)
        finally:
            self._supervisor.shutdown()

    def _specs(self) -> list[ChildSpec]:
        specs = {name: part(self.settings) for name, part in PARTS.items() if name in self._parts}
        if {"valkey", "gateway"} <= self._parts:
            # There before the gateway is: its first request can be authorized.
            specs["valkey"] = replace(specs["valkey"], when_ready=self._make_dev_key)
        return list(specs.values())

    def _make_dev_key(self) -> None:
        LOG.debug("the development key has %d characters", len(self.dev_key))

    def _wait_for_first_token(self, supervisor: Supervisor, stop: threading.Event) -> None:
        self._say("asking for the first token")
        host, port = reachable(self.settings.host), self.settings.ports.gateway
        began = time.monotonic()
        while True:
            left = FIRST_TOKEN_TIMEOUT_S - (time.monotonic() - began)
            problem = probes.gateway_generates(host, port, self.dev_key, self.settings.model.name, max(1.0, left))
            if not problem:
                break
            if left <= 0:
                raise StartError(f"The gateway gave no token within {FIRST_TOKEN_TIMEOUT_S:.0f} s; at last: {problem}")
            supervisor.tick()
            if stop.wait(POLL_S):
                raise Interrupted
        self._say(f"first token after {time.monotonic() - began:.1f} s")

    def _run_in_thread(self) -> None:
        try:
            self.run(self._stop, self._up.set)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits in __enter__
            self._error = error
        finally:
            self._up.set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._up.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error


def isolated_settings(state_dir: Path, engine: str = "scripted", **changes: Any) -> Settings:
    """Settings for a stack of its own: free ports and its own state, but the project's prepared models.

    Every answer is computed: what measures or tests the engine must not get it from a cache unless it says so. And a
    machine that is busy with several stacks is no outage of Valkey.
    `changes` replace fields of `Settings`; environment variables are not looked at.
    """
    unless_changed = {"cache": {"mode": "off"}, "valkey": {"call_timeout_s": 1.0}}
    changes["gateway"] = {**unless_changed, **changes.get("gateway", {})}
    names = [field.name for field in fields(Ports)]
    ports = Ports(**dict(zip(names, free_ports(len(names)), strict=True)))
    return replace(load_settings(environ={}), **{"state_dir": state_dir, "engine": engine, "ports": ports, **changes})
