"""Settings of the adapters' registry."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from gateway.core.settings import Setting


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    adapters_dir: Annotated[
        Path | None,
        Setting(
            "Directory below which LoRA adapters lie, the same as of the engines; without one none can be added.",
            env="ADAPTERS_DIR",
        ),
    ] = None
    max_rank: Annotated[
        int, msgspec.Meta(ge=1), Setting("Highest rank of an adapter: what the engines take.", env="MAX_LORA_RANK")
    ] = 16
    max_bytes: Annotated[
        int,
        msgspec.Meta(ge=1),
        Setting("Largest file of an adapter's weights.", env="MAX_ADAPTER_BYTES", unit="bytes"),
    ] = 1 << 30
    refresh_s: Annotated[
        float,
        msgspec.Meta(gt=0),
        Setting(
            "How often the registry is read again, and engines are told what to pin and to unload; changes arrive at "
            "once without that.",
            env="ADAPTERS_REFRESH_S",
            unit="s",
        ),
    ] = 5.0
