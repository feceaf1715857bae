"""One JSON object a line on standard error. Prompts, answers and secrets are never logged."""

import logging
import sys
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from gateway.core.settings import Setting

FIELDS = "fields"


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Setting("Least urgent lines that are written; health checks and scrapes are debug.", env="LOG_LEVEL"),
    ] = "info"


class JsonFormatter(logging.Formatter):
    """`logger.info("request", extra={FIELDS: {...}})` puts the members of that mapping beside the message."""

    def __init__(self) -> None:
        super().__init__()
        self._encoder = msgspec.json.Encoder(enc_hook=str)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return self._encoder.encode(line).decode()


def configure_logging(settings: LogSettings) -> None:
    """Everything in this process logs through one handler."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)


def _timestamp(seconds: float) -> str:
    """RFC 3339, UTC, milliseconds."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03d}Z"
