"""Settings of the control plane: `TRIREME_*` variables and nothing else. All problems are reported together."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_type_hints

import msgspec

from gateway.core.settings import Setting

Seconds = Annotated[float, msgspec.Meta(gt=0)]


@dataclass(frozen=True, kw_only=True)
class ControlSettings:
    host: Annotated[str, Setting("Address to listen on: whoever reaches it can read.", env="CONTROL_HOST")] = (
        "127.0.0.1"
    )
    port: Annotated[
        int, msgspec.Meta(ge=0, le=65535), Setting("Port to listen on; 0 takes a free one.", env="CONTROL_PORT")
    ] = 8090
    valkey_url: Annotated[str, Setting("The Valkey of the gateways.", env="VALKEY_URL", secret=True)] = (
        "redis://127.0.0.1:6379/0"
    )
    every_s: Annotated[Seconds, Setting("Pause between rounds of work.", env="CONTROL_EVERY_S", unit="s")] = 1.0
    lease_s: Annotated[
        Seconds,
        Setting(
            "How long after a crash another control plane may begin; one round takes half of it at most.",
            env="CONTROL_LEASE_S",
            unit="s",
        ),
    ] = 15.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Setting("Least urgent lines that are written.", env="LOG_LEVEL")
    ] = "info"


class SettingsError(Exception):
    """`problems`: one sentence for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(environ: Mapping[str, str] = os.environ) -> ControlSettings:
    """Raises SettingsError."""
    values: dict[str, Any] = {}
    problems = []
    for name, (hint, about) in declared().items():
        if text := environ.get(about.variable):
            try:
                values[name] = msgspec.convert(text, hint, strict=False)
            except msgspec.ValidationError as error:
                problems.append(f"{about.variable}: {error}")
    if not problems:
        settings = ControlSettings(**values)
        if settings.every_s * 2 > settings.lease_s:
            problems.append("TRIREME_CONTROL_EVERY_S is more than half of TRIREME_CONTROL_LEASE_S: the lease would end")
    if problems:
        raise SettingsError(problems)
    return settings


def declared() -> dict[str, tuple[Any, Setting]]:
    """Field → its type, and what it says of the setting."""
    hints = get_type_hints(ControlSettings, include_extras=True)
    return {
        field.name: (hints[field.name], next(one for one in hints[field.name].__metadata__ if isinstance(one, Setting)))
        for field in dataclasses.fields(ControlSettings)
    }


def reference() -> list[tuple[str, str, str, str]]:
    """Variable, default, unit and meaning of every setting."""
    defaults = {field.name: field.default for field in dataclasses.fields(ControlSettings)}
    return [(about.variable, str(defaults[name]), about.unit, about.meaning) for name, (_, about) in declared().items()]
