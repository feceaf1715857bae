"""Lines of JSON."""

import json
import logging

from gateway.telemetry.logs import FIELDS, JsonFormatter


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("trireme.x", logging.INFO, "f.py", 1, message, (), None)
    made.created = 1_700_000_000.123
    for name, value in extra.items():
        setattr(made, name, value)
    return made


def test_a_line_has_time_level_name_message_and_its_fields() -> None:
    line = JsonFormatter().format(record("request", **{FIELDS: {"status": 200, "where": object}}))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.123Z",
        "level": "info",
        "logger": "trireme.x",
        "message": "request",
        "status": 200,
        "where": "<class 'object'>",
    }


def test_a_traceback_stays_on_the_line() -> None:
    made = record("failed")
    bug = RuntimeError("bug")
    made.exc_info = (RuntimeError, bug, None)
    line = JsonFormatter().format(made)
    assert "\n" not in line
    assert "RuntimeError: bug" in json.loads(line)["traceback"]
