"""Options that several commands share, and how their values are read and shown."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import typer

from gateway.core.identity import CACHE_MODES, CachePolicy, Limits, Quotas
from trireme.errors import TriremeError

Config = Annotated[
    Path | None,
    typer.Option(help="YAML file with settings that differ from deploy/embedded.yaml.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
LimitOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--limit", metavar="NAME=NUMBER", show_default=False,
        help=f"May be given more than once; `none` takes one away. Names: {', '.join(Limits.__struct_fields__)}.",
    ),
]  # fmt: skip
QuotaOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--quota", metavar="NAME=NUMBER", show_default=False,
        help=f"May be given more than once; `none` takes one away. Names: {', '.join(Quotas.__struct_fields__)}.",
    ),
]  # fmt: skip

CacheOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--cache", metavar="MODE|NAME=VALUE", show_default=False,
        help=f"{', '.join(CACHE_MODES)}; or more than once, for others of {', '.join(CachePolicy.__struct_fields__)}; "
        "`none` takes one away.",
    ),
]  # fmt: skip

Bounds = TypeVar("Bounds", Limits, Quotas, CachePolicy)


def with_bounds(before: Bounds, options: Sequence[str] | None, option: str) -> Bounds:
    """`before` with what the options say. Raises: TriremeError."""
    values = msgspec.to_builtins(before)
    for text in options or ():
        name, separator, number = text.partition("=")
        if not separator or name not in before.__struct_fields__:
            known = ", ".join(before.__struct_fields__)
            raise TriremeError(f"{option} {text!r} is not NAME=NUMBER with one of these names: {known}.")
        values[name] = None if number == "none" else number
    try:
        return msgspec.convert(values, type(before), strict=False)
    except msgspec.ValidationError as error:
        raise TriremeError(f"{option}: {error}.") from error


def with_cache(before: CachePolicy, options: Sequence[str] | None) -> CachePolicy:
    """As `with_bounds`; a mode may stand alone. Raises: TriremeError."""
    named = [f"mode={text}" if text in CACHE_MODES else text for text in options or ()]
    return with_bounds(before, named, "--cache")


def shown_bounds(bounds: Limits | Quotas) -> str:
    """For a table: `requests_per_minute=60 …`."""
    return " ".join(f"{name}={value}" for name, value in msgspec.to_builtins(bounds).items())


def shown_time(seconds: int | None) -> str:
    """Local time; empty for never."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
