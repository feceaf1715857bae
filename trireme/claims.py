"""What a running stack claims of the machine: a state directory and TCP ports."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from trireme.errors import AlreadyRunning, PortBusyError, TriremeError
from trireme.settings import LOOPBACK, Settings

PORT_PARTS: Mapping[str, tuple[str, str]] = {  # port → the part that listens there, the variable that changes it
    "valkey": ("valkey", "TRIREME_VALKEY_PORT"),
    "triton_http": ("triton", "TRIREME_TRITON_HTTP_PORT"),
    "triton_grpc": ("triton", "TRIREME_TRITON_GRPC_PORT"),
    "triton_metrics": ("triton", "TRIREME_TRITON_METRICS_PORT"),
    "gateway": ("gateway", "TRIREME_PORT"),
    "control": ("control_plane", "TRIREME_CONTROL_PORT"),
}
# Below the range that Linux takes for outgoing connections, where a free port may be gone a moment later.
FREE_PORTS = range(20000, 32000)


@contextmanager
def state_lock(state_dir: Path) -> Iterator[None]:
    """One stack at a time in a state directory; the kernel gives the lock back when a process dies.

    Raises: AlreadyRunning.
    """
    path = state_dir / "run" / "stack.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another one"
            raise AlreadyRunning(
                f"Trireme already runs in {state_dir} (process {owner}): stop it first, "
                "or choose another directory with TRIREME_STATE_DIR."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def check_ports(settings: Settings, parts: Iterable[str]) -> None:
    """Raises: PortBusyError naming the first port that is taken, and how to choose another one."""
    for name, (part, variable) in PORT_PARTS.items():
        host = settings.host if part == "gateway" else LOOPBACK
        port = getattr(settings.ports, name)
        if part in parts and not can_listen(host, port):
            raise PortBusyError(
                f"Port {port} on {host}, which {part} needs, is in use: stop the program that listens there, "
                f"or choose another port with {variable}."
            )


def can_listen(host: str, port: int) -> bool:
    """Whether a server could listen there now. Raises: TriremeError when the address is not this machine's."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # Connections of an earlier run that linger do not count; a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            raise TriremeError(f"Port {port} may be used by root only: choose one above 1023.") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise TriremeError(f"host: {host!r} is no address of this machine ({error.strerror}).") from error
    return True


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """So many different ones. Raises: TriremeError in the unlikely case that there are not enough."""
    with ExitStack() as held:
        ports: list[int] = []
        for port in random.sample(FREE_PORTS, len(FREE_PORTS)):
            if len(ports) == count:
                break
            probe = held.enter_context(socket.socket())
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            ports.append(port)
    if len(ports) < count:
        raise TriremeError("This machine has no free TCP ports.")
    return ports
