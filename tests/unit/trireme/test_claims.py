"""Ports and the state directory: taken ones are named, with the way out."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from trireme.claims import can_listen, check_ports, free_port, free_ports, state_lock
from trireme.errors import AlreadyRunning, PortBusyError, TriremeError
from trireme.settings import Ports
from trireme.stack import isolated_settings


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("name", "part", "variable"),
    [
        ("gateway", "gateway", "TRIREME_PORT"),
        ("triton_http", "triton", "TRIREME_TRITON_HTTP_PORT"),
        ("triton_grpc", "triton", "TRIREME_TRITON_GRPC_PORT"),
        ("triton_metrics", "triton", "TRIREME_TRITON_METRICS_PORT"),
        ("valkey", "valkey", "TRIREME_VALKEY_PORT"),
    ],
)
def test_a_busy_port_is_one_sentence_with_port_part_and_setting(
    tmp_path: Path, listener: int, name: str, part: str, variable: str
) -> None:
    settings = isolated_settings(tmp_path)
    settings = replace(settings, ports=replace(settings.ports, **{name: listener}))
    with pytest.raises(PortBusyError) as caught:
        check_ports(settings, {"valkey", "triton", "gateway"})
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert all(word in sentence for word in (str(listener), part, variable))


def test_ports_of_parts_that_do_not_run_are_not_looked_at(tmp_path: Path, listener: int) -> None:
    settings = isolated_settings(tmp_path)
    settings = replace(settings, ports=replace(settings.ports, gateway=listener))
    check_ports(settings, {"valkey", "triton"})


def test_a_port_is_busy_for_all_addresses_when_it_is_for_one(listener: int) -> None:
    assert not can_listen("0.0.0.0", listener)
    assert not can_listen("127.0.0.1", listener)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(TriremeError, match=r"host: '192\.0\.2\.1' is no address of this machine"):
        can_listen("192.0.2.1", free_port())


def test_free_ports_are_different_and_free() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(can_listen("127.0.0.1", port) for port in ports)


def test_every_port_of_the_settings_has_a_variable_to_change_it() -> None:
    from trireme.claims import PORT_PARTS
    from trireme.settings import ENVIRONMENT

    assert set(PORT_PARTS) == set(Ports.__dataclass_fields__)
    for name, (_, variable) in PORT_PARTS.items():
        assert ENVIRONMENT[variable][0] == ("ports", name)


def test_a_second_stack_in_the_same_directory_is_refused_and_the_first_one_named(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys\n"
        "from trireme.claims import state_lock\n"
        "with state_lock(pathlib.Path(sys.argv[1])):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(AlreadyRunning, match=rf"process {other.pid}\).*TRIREME_STATE_DIR"), state_lock(tmp_path):
            pass
        other.kill()
    with state_lock(tmp_path):  # the kernel gave it back
        pass
