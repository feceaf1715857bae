"""Load a version of the model into a running Triton beside others, and unload one, while streams run all the time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from control_plane.arms import DEFAULT_ARM
from control_plane.routing import RoutingDocument
from control_plane.versions import Place, new_arm, with_version, without_version
from gateway.core.snapshot import DEFAULT_GROUP, RoutingSnapshot
from trireme import probes
from trireme.control import refusals, with_control
from trireme.errors import TriremeError
from trireme.repository import DEFAULT, ENGINE, VERSIONED, Repository
from trireme.settings import Settings, missing_files
from trireme.triton_control import TritonControl

HEARTBEAT_S: Final = 5.0
POLL_S: Final = 0.2
QUICK_LOAD_S: Final = 60.0
TOKEN_S: Final = 120.0
# Requests that gateways sent before they knew are there by then.
IDLE_S: Final = 2.0
RESTART_S: Final = 60.0


@dataclass(frozen=True)
class Server:
    """One Triton: its HTTP host and port, its gRPC address, the repository that it loads, and its group in routing."""

    host: str
    port: int
    grpc: str
    repository: Path
    group: str = DEFAULT_GROUP


@dataclass(frozen=True)
class Row:
    """One version. `arms`: name → weight; `in_flight`: requests in its engine, None if that does not answer."""

    version: str
    state: str
    default: bool
    overrides: Mapping[str, Any]
    arms: Mapping[str, int]
    in_flight: int | None


class Versions:
    """Of the model that clients call `model`. `say`: gets a line for each step. Raises TriremeError.

    `idle_s`: so long must an engine have had nothing to do before it is unloaded.
    """

    def __init__(
        self,
        settings: Settings,
        server: Server,
        model: str,
        say: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        idle_s: float = IDLE_S,
    ) -> None:
        self._settings = settings
        self._server = server
        self._model = model
        self._say = say
        self._clock = clock
        self._idle_s = idle_s
        self._repository = Repository(server.repository)
        self._triton = TritonControl(server.grpc)

    def load(self, version: str, overrides: Mapping[str, Any], timeout_s: float) -> None:
        """Beside the others, and into routing without weight. What fails leaves everything as it was."""
        arm = new_arm(self._place(version))
        with self._repository.locked():
            with refusals():
                with_version(self._read(), self._model, arm)
            ensemble = self._repository.add(version, overrides)
            try:
                self._load(ensemble, version, timeout_s)
            except (TriremeError, KeyboardInterrupt):
                self._undo(version, ensemble)
                raise
            self._repository.prove(version)
            self._change(lambda document: with_version(document, self._model, arm))
        self._say(f"Version {version} is loaded; nobody gets it who does not ask for {self._model}@{version}.")

    def unload(self, version: str, timeout_s: float) -> None:
        """When nobody is given to it any more and its last request has ended."""
        with self._repository.locked():
            versions = self._repository.versions
            if version not in versions:
                raise TriremeError(f"There is no version {version}; there are: {', '.join(versions)}.")
            if len(versions) == 1:
                raise TriremeError(f"Version {version} is the only one: load another one first.")
            place = self._place(version)
            self._change(lambda document: without_version(document, self._model, place))
            self._drain(version, timeout_s)
            self._move_default(version)
            self._take_away(version, self._repository.ensemble(version))
            self._wait(lambda: _gone(self._triton.states().get(ENGINE, {}).get(version)), "it is unloaded", timeout_s)
        self._say(f"Version {version} is unloaded.")

    def rows(self) -> list[Row]:
        """The oldest first."""
        states, document, default = self._triton.states(), self._read(), self._repository.default
        routes = [route for route in document.models if route.name == self._model]
        found = []
        for version in self._repository.versions:
            place = self._place(version)
            arms = {arm.name: arm.weight for route in routes for arm in route.arms if place.holds(arm)}
            if not routes and version == default:
                arms = {DEFAULT_ARM: 1}
            state = probes.engine_state(self._server.host, self._server.port, version)
            found.append(
                Row(
                    version=version,
                    state=states.get(ENGINE, {}).get(version, "not loaded").lower(),
                    default=version == default,
                    overrides=self._repository.overrides(version),
                    arms=arms,
                    in_flight=None if state is None else int(state.get("in_flight", 0)),
                )
            )
        return found

    def _place(self, version: str) -> Place:
        return Place(version, default=version == self._repository.default, group=self._server.group)

    def _load(self, ensemble: str, version: str, timeout_s: float) -> None:
        """Other models and versions are not touched."""
        began = self._clock()
        self._say(f"loading version {version}")
        with ThreadPoolExecutor(1, thread_name_prefix="load") as pool:
            loading = pool.submit(self._triton.load, ensemble, timeout_s)
            while True:
                try:
                    loading.result(HEARTBEAT_S)
                except NotYet:
                    self._say(f"  still loading after {self._clock() - began:.0f} s")
                except TriremeError as error:
                    raise TriremeError(f"{error}{self._reasons(version)}") from error
                else:
                    break
        self._say(f"loaded after {self._clock() - began:.1f} s; asking for its first token")
        if not probes.triton_generates(self._server.host, self._server.port, TOKEN_S, ensemble):
            raise TriremeError(f"Version {version} is loaded and gives no token; Triton's log may say why.")

    def _reasons(self, version: str) -> str:
        """What the models that an ensemble is made of failed of, which Triton does not say of the ensemble."""
        try:
            states = self._triton.states()
        except TriremeError:
            return ""
        found = {model: states.get(model, {}).get(version, "") for model in VERSIONED}
        failed = [f"\n{model}: {state}" for model, state in found.items() if state.startswith("UNAVAILABLE")]
        return "".join(failed)

    def _undo(self, version: str, ensemble: str) -> None:
        """Also when Triton was killed meanwhile: it may have found the version at its next start."""
        self._say(f"taking version {version} away again; the others go on")
        self._repository.remove(version)
        with suppress(TriremeError):
            self._wait(lambda: probes.http_ok(self._server.host, self._server.port, "/v2/health/ready"), "", RESTART_S)
            self._take_away(version, ensemble)

    def _take_away(self, version: str, ensemble: str) -> None:
        """From the repository, and from Triton, which lets requests end first."""
        if ensemble != DEFAULT:
            self._triton.unload(ensemble)
        self._repository.remove(version)
        for model in VERSIONED:
            self._triton.load(model, QUICK_LOAD_S)

    def _drain(self, version: str, timeout_s: float) -> None:
        """Raises TriremeError when requests still run by then: nothing new goes there, and unloading again goes on."""
        idle_since: float | None = None

        def idle() -> bool:
            nonlocal idle_since
            if not probes.engine_is_idle(self._server.host, self._server.port, version):
                idle_since = None
                return False
            idle_since = idle_since or self._clock()
            return self._clock() - idle_since >= self._idle_s

        self._say(f"version {version} gets nothing new; waiting for its last requests")
        self._wait(idle, "its last request ended", timeout_s)

    def _move_default(self, version: str) -> None:
        """To the version that most calls go to, when this one is what clients of Triton get who name none."""
        if version != self._repository.default:
            return
        weights = {row.version: sum(row.arms.values()) for row in self.rows() if row.version != version}
        heir = max(weights, key=lambda one: (weights[one], int(one)))
        self._repository.make_default(heir)
        self._triton.load(DEFAULT, QUICK_LOAD_S)
        self._say(f"clients of Triton that name no version get version {heir} now")

    def _wait(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        until = self._clock() + timeout_s
        while not condition():
            if self._clock() > until:
                raise TriremeError(f"Within {timeout_s:.0f} s it did not come to pass that {what}.")
            time.sleep(POLL_S)

    def _read(self) -> RoutingSnapshot:
        return with_control(self._settings, lambda redis: RoutingDocument(redis).read())

    def _change(self, change: Callable[[RoutingSnapshot], RoutingSnapshot]) -> None:
        with_control(self._settings, lambda redis: RoutingDocument(redis).change(change))


def check_model_dir(given: Path, served: Path) -> None:
    """The gateway counts tokens for all versions with one tokenizer and one chat template. Raises TriremeError."""
    if missing := missing_files(given):
        raise TriremeError(f"{given} holds no {', no '.join(missing)}.")
    if given.resolve() == served.resolve():
        return
    for what, read in {"tokenizer": _tokenizer, "chat template": _chat_template}.items():
        if read(given) != read(served):
            raise TriremeError(
                f"{given} has another {what} than {served}: a version must have the same, or tokens would be counted "
                "wrongly. Serve it as a model of its own."
            )


def _tokenizer(directory: Path) -> bytes:
    return (directory / "tokenizer.json").read_bytes()


def _chat_template(directory: Path) -> object:
    """Where newer directories have it, else where older ones do."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    config = directory / "tokenizer_config.json"
    return json.loads(config.read_text("utf-8")).get("chat_template") if config.is_file() else None


def _gone(state: str | None) -> bool:
    return state is None or state.startswith("UNAVAILABLE")
