"""What a person sees at the terminal."""

import io
import json
import shlex
from pathlib import Path

from rich.console import Console
from typer.testing import CliRunner

from trireme.cli import app
from trireme.serve import Terminal, curl_line


def test_the_curl_line_is_one_line_that_a_shell_reads_as_it_was_meant() -> None:
    line = curl_line("http://127.0.0.1:8080", "trk_a'b", "smollm2-135m-instruct")
    assert "\n" not in line
    words = shlex.split(line)
    assert words[:2] == ["curl", "http://127.0.0.1:8080/v1/chat/completions"]
    assert "Authorization: Bearer trk_a'b" in words
    assert json.loads(words[-1])["model"] == "smollm2-135m-instruct"


def test_a_line_to_copy_is_neither_wrapped_nor_read_as_markup() -> None:
    output = io.StringIO()
    Terminal(Console(file=output, width=40)).line("curl [bold] " + "x" * 100)
    assert output.getvalue() == "curl [bold] " + "x" * 100 + "\n"


def test_without_a_terminal_progress_is_plain_lines() -> None:
    output = io.StringIO()
    terminal = Terminal(Console(file=output))
    with terminal.spinner:
        terminal.say("starting valkey")
        terminal.say("valkey is ready (0.1 s)")
    lines = output.getvalue().splitlines()
    assert [line[10:] for line in lines] == ["starting valkey", "valkey is ready (0.1 s)"]
    assert "\x1b" not in output.getvalue()


def test_help_names_every_command() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in ("serve", "prepare", "doctor", "keys"):
        assert command in result.output


def test_wrong_settings_stop_every_command_with_their_problems(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("engine: tensorrt\n")
    result = CliRunner().invoke(app, ["doctor", "--config", str(config)])
    assert result.exit_code == 1
    assert str(result.exception) == "engine: 'tensorrt' is none of vllm, scripted."


class ClosedPipe(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_terminal_that_has_gone_is_no_reason_to_fail() -> None:
    terminal = Terminal(Console(file=ClosedPipe()))
    terminal.say("valkey has stopped")
    terminal.line("another line")
