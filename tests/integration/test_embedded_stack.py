"""`trireme serve` and `EmbeddedStack` with real processes: start, failures, restart, and an end that leaves nothing."""

import asyncio
import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import psutil
import pytest

from trireme import probes
from trireme.claims import free_ports
from trireme.errors import StartError
from trireme.keys import dev_key_file, ensure_dev_key, key_store
from trireme.process import session_members
from trireme.restart import Backoff
from trireme.settings import ENVIRONMENT, Ports, load_settings
from trireme.stack import EmbeddedStack, isolated_settings
from trireme.supervisor import Supervision

pytestmark = pytest.mark.integration

TRIREME = Path(sys.prefix) / "bin" / "trireme"
QUICK = Supervision(backoff=Backoff(first=0.2), probe_every=1.0)
STOP_LIMIT_S = 10.0


def environment(state_dir: Path) -> dict[str, str]:
    """For a `trireme serve` of its own: free ports, the scripted engine, the project's prepared models."""
    ports = dict(zip((field.name for field in fields(Ports)), free_ports(len(fields(Ports))), strict=True))
    variables = {name: str(ports[place[1]]) for name, (place, _) in ENVIRONMENT.items() if place[0] == "ports"}
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("TRIREME_")},
        **variables,
        "TRIREME_STATE_DIR": str(state_dir),
        "TRIREME_MODELS_DIR": str(load_settings(environ={}).models_dir),
        "TRIREME_ENGINE": "scripted",
    }


@contextmanager
def serving(variables: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """`trireme serve` in the background; killed with all that it started when the test forgot to stop it."""
    process = subprocess.Popen(
        [str(TRIREME), "serve"], env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=30)


def trireme(variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """One command, to its end."""
    command = [str(TRIREME), *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)


def read_until(process: subprocess.Popen[str], words: str) -> list[str]:
    """Its lines up to the one that holds `words`."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if words in line:
            return lines
    raise AssertionError("it ended first:\n" + "\n".join(lines))


def everything_below(pid: int) -> list[psutil.Process]:
    """Descendants with all members of their sessions."""
    below = psutil.Process(pid).children(recursive=True)
    return list({member for process in below for member in session_members(os.getsid(process.pid))})


def run_curl_line(line: str) -> tuple[int, dict[str, object]]:
    """Do what curl would do: the machine may have none."""
    words = shlex.split(line)
    assert words[0] == "curl"
    options = [words[at + 1] for at, word in enumerate(words) if word == "-H"]
    headers = dict(option.split(": ", 1) for option in options)
    match = re.fullmatch(r"http://([^:/]+):(\d+)(/.*)", words[1])
    assert match is not None
    connection = http.client.HTTPConnection(match[1], int(match[2]), timeout=30)
    connection.request("POST", match[3], body=words[words.index("-d") + 1], headers=headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def stop_and_look(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, float, list[psutil.Process]]:
    """Exit code, seconds until it ended, and whatever still runs of what it had started."""
    below = everything_below(process.pid)
    began = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=30)
    return process.returncode, time.monotonic() - began, [left for left in below if left.is_running()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_serve_prints_what_works_and_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    with serving(environment(tmp_path)) as process:
        lines = read_until(process, "Ctrl-C stops everything")
        [curl] = [line for line in lines if line.startswith("curl ")]
        status, reply = run_curl_line(curl)
        assert (status, bool(reply.get("choices"))) == (200, True), reply
        key = (tmp_path / "dev.key").read_text().strip()
        assert f"Bearer {key}" in curl
        assert (tmp_path / "dev.key").stat().st_mode & 0o777 == 0o600

        assert len(everything_below(process.pid)) >= 6  # Valkey, Triton, its models, the gateway
        code, seconds, left = stop_and_look(process, number)
    assert code == 0
    assert seconds < STOP_LIMIT_S
    assert left == []


def test_a_stop_while_starting_leaves_nothing_behind(tmp_path: Path) -> None:
    with serving(environment(tmp_path)) as process:
        read_until(process, "starting triton")
        code, seconds, left = stop_and_look(process, signal.SIGTERM)
    assert code == 0
    assert seconds < STOP_LIMIT_S
    assert left == []


def test_requests_that_never_end_do_not_delay_the_stop(tmp_path: Path) -> None:
    variables = environment(tmp_path)
    body = json.dumps({"request": json.dumps(probes.PING), "script_hang_at": 0})
    with serving(variables) as process:
        read_until(process, "Ctrl-C stops everything")
        with socket.create_connection(("127.0.0.1", int(variables["TRIREME_TRITON_HTTP_PORT"]))) as client:
            head = f"POST /v2/models/chat/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall((head + body).encode())
            _, seconds, left = stop_and_look(process, signal.SIGTERM)
    assert seconds < STOP_LIMIT_S
    assert left == []


def test_a_busy_port_is_one_sentence_and_a_failure(tmp_path: Path) -> None:
    variables = environment(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(variables["TRIREME_PORT"])))
        other.listen()
        result = trireme(variables, "serve")
    assert result.returncode == 1
    assert result.stdout == ""
    [sentence] = result.stderr.splitlines()
    assert variables["TRIREME_PORT"] in sentence
    assert "TRIREME_PORT" in sentence


def test_wrong_settings_are_told_before_anything_starts(tmp_path: Path) -> None:
    variables = {**environment(tmp_path), "TRIREME_ENGINE": "tensorrt", "TRIREME_PORT": "0"}
    result = trireme(variables, "serve")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 2
    assert not any(tmp_path.iterdir())


def test_the_development_key_is_kept_while_it_is_valid_and_replaced_when_not(tmp_path: Path) -> None:
    settings = isolated_settings(tmp_path)
    with EmbeddedStack(settings, parts={"valkey"}) as stack:
        first = stack.dev_key
        assert dev_key_file(settings).read_text().strip() == first
        assert ensure_dev_key(settings) == first

        asyncio.run(revoke_all(stack))
        second = ensure_dev_key(settings)
        assert second != first
    with EmbeddedStack(settings, parts={"valkey"}) as stack:  # the append-only file brought it back
        assert stack.dev_key == second


async def revoke_all(stack: EmbeddedStack) -> None:
    async with key_store(stack.settings) as store:
        for record in await store.list():
            assert (await store.revoke(record.key_id)).revoked_at is not None


def test_keys_are_made_listed_and_revoked_on_the_command_line(tmp_path: Path) -> None:
    settings = isolated_settings(tmp_path)
    variables = {**environment(tmp_path), "TRIREME_VALKEY_PORT": str(settings.ports.valkey)}

    unreachable = trireme(variables, "keys", "list")
    assert unreachable.returncode == 1
    assert "make serve" in unreachable.stderr
    with EmbeddedStack(settings, parts={"valkey"}):
        assert trireme(variables, "tenants", "create", "acme").returncode == 0
        made = trireme(variables, "keys", "create", "--tenant", "acme", "--scope", "inference", "--days", "2")
        assert made.returncode == 0, made.stderr
        secret = made.stdout.strip()
        [record] = json.loads(trireme(variables, "keys", "list", "--json").stdout)
        assert (record["tenant"], record["scopes"]) == ("acme", ["inference"])
        assert record["expires_at"] - record["created_at"] == pytest.approx(2 * 86400, abs=5)
        assert secret not in trireme(variables, "keys", "list").stdout

        assert trireme(variables, "keys", "revoke", record["id"]).returncode == 0
        [record] = json.loads(trireme(variables, "keys", "list", "--json").stdout)
        assert record["status"] == "revoked"
        unknown = trireme(variables, "keys", "revoke", "key_none")
        assert (unknown.returncode, "key_none" in unknown.stderr) == (1, True)
        refused = trireme(variables, "keys", "create", "--scope", "root")
        assert (refused.returncode, "root" in refused.stderr) == (1, True)


@pytest.fixture(scope="module")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """A stack that tests may break: whatever they end, it comes back."""
    settings = isolated_settings(tmp_path_factory.mktemp("breakable"))
    with EmbeddedStack(settings, supervision=QUICK) as running:
        yield running


def gateway_is_ready(stack: EmbeddedStack) -> bool:
    return probes.http_ok("127.0.0.1", stack.settings.ports.gateway, "/health/ready")


def generates(stack: EmbeddedStack) -> str:
    port = stack.settings.ports.gateway
    return probes.gateway_generates("127.0.0.1", port, stack.dev_key, stack.settings.model.name, 10.0)


def wait_for(condition: Callable[[], bool], what: str, timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.mark.parametrize("name", ["gateway", "valkey", "triton"])
def test_a_part_that_is_killed_comes_back_and_answers(breakable: EmbeddedStack, name: str) -> None:
    before = breakable.child(name).pid
    breakable.kill(name)
    wait_for(lambda: breakable.child(name).pid not in (before, None), f"{name} was not restarted")
    breakable.wait_ready(60)
    wait_for(lambda: generates(breakable) == "", "no token after the restart")


def test_the_gateway_is_not_ready_while_triton_is_away(breakable: EmbeddedStack) -> None:
    wait_for(lambda: gateway_is_ready(breakable), "the gateway was not ready")
    breakable.kill("triton")
    wait_for(lambda: generates(breakable) != "", "Triton was not away")
    assert not gateway_is_ready(breakable)
    breakable.wait_ready(60)
    wait_for(lambda: gateway_is_ready(breakable), "the gateway did not become ready again")


@pytest.mark.parametrize("model", ["preprocess", "vllm", "postprocess"])
def test_a_dead_model_process_behind_a_live_server_is_found_by_asking_it(breakable: EmbeddedStack, model: str) -> None:
    breakable.wait_ready(60)
    before = breakable.child("triton").pid
    assert before is not None
    [stub] = [process for process in session_members(before) if is_stub_of(process, model)]
    stub.kill()
    assert probes.http_ok("127.0.0.1", breakable.settings.ports.triton_http, "/v2/health/ready")
    wait_for(lambda: breakable.child("triton").pid not in (before, None), "Triton was not restarted", 90)
    assert session_members(before) == []
    breakable.wait_ready(60)
    wait_for(lambda: generates(breakable) == "", "no token after the restart")


def is_stub_of(process: psutil.Process, model: str) -> bool:
    return any(f"/{model}/" in argument for argument in process.cmdline()[1:2])


def test_a_model_that_fails_to_load_is_told_with_tritons_own_words(tmp_path: Path) -> None:
    settings = isolated_settings(tmp_path, triton_models=("no_such_model",))
    with pytest.raises(StartError, match=r"(?s)no_such_model.*triton ended while starting"):
        EmbeddedStack(settings, parts={"triton"}).__enter__()


def test_two_stacks_run_side_by_side(tmp_path: Path) -> None:
    stacks = [EmbeddedStack(isolated_settings(tmp_path / name), parts={"valkey"}) for name in ("a", "b")]
    with stacks[0] as first, stacks[1] as second:
        assert first.dev_key != second.dev_key
        assert first.valkey_url != second.valkey_url


def test_a_stack_in_a_busy_state_directory_is_refused(tmp_path: Path) -> None:
    settings = isolated_settings(tmp_path)
    variables = environment(tmp_path)
    with EmbeddedStack(settings, parts={"valkey"}):
        result = trireme(variables, "serve")
    assert result.returncode == 1
    assert f"process {os.getpid()}" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_settings_can_be_changed_for_one_stack(tmp_path: Path) -> None:
    settings = isolated_settings(tmp_path, engine="scripted")
    changed = replace(settings, log_level="debug")
    with EmbeddedStack(changed, parts={"valkey"}) as stack:
        assert probes.valkey_answers("127.0.0.1", changed.ports.valkey)
        assert stack.child("valkey").ready
