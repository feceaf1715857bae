"""Settings of the gateway: the only reader of environment and files.

Values come from the field's default, then one YAML file (`TRIREME_CONFIG`), then `TRIREME_*` variables. Everything is
checked before anything starts, and all problems are reported together. `python -m gateway.config` writes the reference
(docs/settings.md).
"""

import dataclasses
import ipaddress
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import yaml

from gateway.accounting.settings import AccountingSettings
from gateway.adapters.settings import AdapterSettings
from gateway.admission.settings import AdmissionSettings
from gateway.auth.oidc import OidcSettings
from gateway.auth.settings import AuthSettings
from gateway.cache.idempotency import IdempotencySettings
from gateway.cache.settings import CacheSettings
from gateway.choosing.settings import ChoosingSettings
from gateway.core.settings import PREFIX, Setting
from gateway.core.snapshot import PLAN
from gateway.grammar.forms import GrammarSettings
from gateway.limits.settings import LimitSettings
from gateway.mirroring.settings import MirrorSettings
from gateway.routing.models import ModelSettings, read_models
from gateway.routing.settings import RoutingSettings
from gateway.telemetry.logs import LogSettings
from gateway.telemetry.traces import TraceSettings
from gateway.tokens.counting import TokenSettings
from gateway.triton.settings import TritonSettings
from gateway.valkey.connection import ValkeySettings

CONFIG_VARIABLE = f"{PREFIX}CONFIG"
MIN_PEPPER_BYTES = 16
Seconds = Annotated[float, msgspec.Meta(gt=0)]


@dataclass(frozen=True, kw_only=True)
class HttpSettings:
    host: Annotated[str, Setting("Address to listen on.", env="HOST")] = "127.0.0.1"
    port: Annotated[
        int, msgspec.Meta(ge=0, le=65535), Setting("Port to listen on; 0 takes a free one.", env="PORT")
    ] = 8080
    max_body_bytes: Annotated[
        int, msgspec.Meta(ge=1024), Setting("Largest request body; then 413.", env="MAX_BODY_BYTES", unit="bytes")
    ] = 8 * 1024 * 1024
    inline_body_bytes: Annotated[
        int,
        msgspec.Meta(ge=0),
        Setting("Bodies from this size on are parsed in a thread.", env="INLINE_BODY_BYTES", unit="bytes"),
    ] = 64 * 1024
    default_deadline_s: Annotated[
        Seconds, Setting("Time for a request that sends no `x-deadline-ms`.", env="DEFAULT_DEADLINE_S", unit="s")
    ] = 600.0
    max_deadline_s: Annotated[
        Seconds, Setting("Longest deadline that may be asked for.", env="MAX_DEADLINE_S", unit="s")
    ] = 3600.0
    write_timeout_s: Annotated[
        Seconds,
        Setting(
            "How long a client may read nothing of a stream that is ready for it.", env="WRITE_TIMEOUT_S", unit="s"
        ),
    ] = 60.0
    drain_s: Annotated[
        float,
        msgspec.Meta(ge=0),
        Setting("Time for running requests to finish after SIGTERM; then they are ended.", env="DRAIN_S", unit="s"),
    ] = 8.0
    trusted_proxies: Annotated[
        str,
        Setting(
            "Addresses or networks, separated by commas, whose `x-forwarded-for` says who the client is.",
            env="TRUSTED_PROXIES",
        ),
    ] = ""
    metrics_key: Annotated[
        bool, Setting("Whether /metrics asks for a key with the scope `metrics`.", env="METRICS_KEY")
    ] = False


@dataclass(frozen=True)
class Settings:
    """Each field is a section of the YAML file."""

    http: HttpSettings
    models: ModelSettings
    auth: AuthSettings
    oidc: OidcSettings
    valkey: ValkeySettings
    tokens: TokenSettings
    idempotency: IdempotencySettings
    cache: CacheSettings
    limits: LimitSettings
    grammar: GrammarSettings
    admission: AdmissionSettings
    routing: RoutingSettings
    choosing: ChoosingSettings
    mirroring: MirrorSettings
    triton: TritonSettings
    adapters: AdapterSettings
    accounting: AccountingSettings
    log: LogSettings
    traces: TraceSettings


class ConfigError(Exception):
    """`problems`: one sentence for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Raises ConfigError."""
    problems: list[str] = []
    document = _read_yaml(environ.get(CONFIG_VARIABLE), problems)
    hints = get_type_hints(Settings)
    problems += [
        f"{section}: there is no such section; known: {', '.join(hints)}" for section in document.keys() - hints
    ]
    sections = {name: _section(name, kind, document.get(name) or {}, environ, problems) for name, kind in hints.items()}
    if problems:
        raise ConfigError(problems)
    settings = Settings(**{name: hints[name](**values) for name, values in sections.items()})
    if problems := list(_contradictions(settings)):
        raise ConfigError(problems)
    return settings


def read_pepper(settings: AuthSettings) -> bytes:
    """Raises OSError, ValueError."""
    if (settings.pepper_file is None) == (settings.pepper is None):
        raise ValueError(f"set one of {PREFIX}PEPPER_FILE and {PREFIX}PEPPER")
    return bytes.fromhex(settings.pepper or Path(str(settings.pepper_file)).read_text("ascii"))


def _read_yaml(path: str | None, problems: list[str]) -> dict[str, Any]:
    if not path:
        return {}
    try:
        document = yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        problems.append(f"{CONFIG_VARIABLE}: {path} cannot be read: {error.strerror}")
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(f"{CONFIG_VARIABLE}: {path} is not valid YAML: {' '.join(str(error).split())}")
        return {}
    if document is None or isinstance(document, dict):
        return document or {}
    problems.append(f"{CONFIG_VARIABLE}: {path} must hold sections of settings")
    return {}


def _section(name: str, kind: type, given: object, environ: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    """The values of one section that somebody gave; the rest are the dataclass's defaults."""
    if not isinstance(given, dict):
        problems.append(f"{name}: must be a mapping of settings")
        given = {}
    hints = get_type_hints(kind, include_extras=True)
    problems += [f"{name}.{key}: there is no such setting; known: {', '.join(hints)}" for key in given.keys() - hints]
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        hint, about = hints[field.name], _about(hints[field.name])
        place = f"{name}.{field.name} ({about.variable})"
        if about.secret and given.get(field.name) is not None:
            problems.append(f"{place}: is a secret and stands in no file: set the variable")
            continue
        try:
            if environ.get(about.variable):
                values[field.name] = _convert(environ[about.variable], hint, strict=False)
            elif given.get(field.name) is not None:
                values[field.name] = _convert(given[field.name], hint, strict=True)
            elif field.default is dataclasses.MISSING:
                problems.append(f"{place}: must be set. {about.meaning}")
        except msgspec.ValidationError as error:
            problems.append(f"{place}: {error}")
    return values


def _about(hint: Any) -> Setting:
    """What the field's type says of the setting."""
    return next(one for one in hint.__metadata__ if isinstance(one, Setting))


def _convert(value: Any, kind: Any, *, strict: bool) -> Any:
    """`strict`: false for the text of a variable, where mappings and lists are JSON."""
    if not strict and _takes_mapping(kind):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise msgspec.ValidationError(f"is not valid JSON: {error}") from error
    return msgspec.convert(value, kind, strict=strict, dec_hook=lambda to, text: to(text))


def _takes_mapping(kind: Any) -> bool:
    return get_origin(kind) in (dict, list) or any(_takes_mapping(one) for one in get_args(kind))


def _contradictions(settings: Settings) -> Iterator[str]:
    """What no single field can tell."""
    http = settings.http
    if http.default_deadline_s > http.max_deadline_s:
        yield f"http.default_deadline_s ({http.default_deadline_s:g} s) is longer than http.max_deadline_s"
    yield from _proxy_problems(http)
    if settings.limits.heartbeat_s * 2 > settings.limits.lease_ttl_s:
        yield "limits.heartbeat_s is more than half of limits.lease_ttl_s: requests that run would count as ended"
    yield from _model_problems(settings)
    yield from settings.oidc.problems()
    yield from (f"routing.{problem}" for problem in settings.routing.problems())
    yield from _pepper_problems(settings.auth)


def _proxy_problems(http: HttpSettings) -> Iterator[str]:
    for one in filter(None, map(str.strip, http.trusted_proxies.split(","))):
        try:
            ipaddress.ip_network(one)
        except ValueError as error:
            yield f"http.trusted_proxies: {error}"


def _pepper_problems(auth: AuthSettings) -> Iterator[str]:
    """The reader's own words are not repeated: they might quote the secret."""
    try:
        if len(read_pepper(auth)) < MIN_PEPPER_BYTES:
            yield f"auth.pepper_file: the pepper has fewer than {MIN_PEPPER_BYTES} bytes"
    except OSError as error:
        yield f"auth.pepper_file: {auth.pepper_file} cannot be read: {error.strerror}"
    except ValueError:
        if (auth.pepper_file is None) == (auth.pepper is None):
            yield f"auth.pepper_file: set one of {PREFIX}PEPPER_FILE and {PREFIX}PEPPER"
        else:
            yield "auth.pepper_file: the pepper is not hexadecimal"


def _model_problems(settings: Settings) -> Iterator[str]:
    models, admission = settings.models, settings.admission
    if (models.embedding_model_name is None) != (models.embedding_model_dir is None):
        yield "models.embedding_model_name and models.embedding_model_dir go together: set both or none"
    generating, embedding = [spec.name for spec in models.generating], models.embedding
    names = [PLAN, *generating, *embedding]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"models: more than one thing is called {name!r}; {PLAN!r} is Triton's ensemble"
    yield from settings.choosing.problems(generating, [PLAN, *embedding])
    for directory in models.directories.values():
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            if not (directory / file).is_file():
                yield f"models: {directory} has no {file}"
                return
    try:
        longest = max(model.max_model_len for model in read_models(models))
    except (OSError, ValueError, KeyError) as error:
        yield f"models: config.json makes no sense: {error!r}"
        return
    if longest > admission.max_running_tokens:
        yield f"admission.max_running_tokens is less than one full context ({longest} tokens)"


def reference() -> str:
    """Every setting as Markdown tables."""
    lines = ["# Settings of the gateway", "", *_PREAMBLE]
    for section, kind in get_type_hints(Settings).items():
        lines += [
            "",
            f"## `{section}`",
            "",
            "| setting | variable | default | unit | meaning |",
            "|---|---|---|---|---|",
        ]
        hints = get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            about, default = _about(hints[field.name]), _shown(field.default)
            lines.append(f"| `{field.name}` | `{about.variable}` | {default} | {about.unit} | {about.meaning} |")
    return "\n".join(lines) + "\n"


_PREAMBLE = (
    "Written by `python -m gateway.config` from the settings classes; change those.",
    "",
    f"A setting stands in its section of the YAML file that `{CONFIG_VARIABLE}` names, or in its variable, which wins.",
)


def _shown(default: object) -> str:
    if default is dataclasses.MISSING:
        return "*required*"
    return "" if default is None else f"`{default}`"


if __name__ == "__main__":
    sys.stdout.write(reference())
