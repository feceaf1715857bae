"""Many clients at once, in a process of their own: `python -m tests.support.crowd HOST PORT NUMBER`.

Reads one whole HTTP request, with `connection: close`, from standard input; connects NUMBER times; sends it on every
connection; prints how many answers had which status, as JSON. `0` counts connections that ended without one.
"""

import asyncio
import json
import sys
from collections import Counter
from typing import Any

import uvloop

# At a time: fewer than the server lets wait to be accepted.
CONNECTING = 256


class Client(asyncio.Protocol):
    """`ended` has the status."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._answer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport

    def data_received(self, data: bytes) -> None:
        self._answer += data

    def connection_lost(self, error: Exception | None) -> None:
        line = self._answer.partition(b"\r\n")[0].split()
        whole = error is None and len(line) > 1
        self.ended.set_result(int(line[1]) if whole else 0)


async def ask(host: str, port: int, number: int, request: bytes) -> Counter[int]:
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    while len(clients) < number:
        some = range(min(CONNECTING, number - len(clients)))
        made = await asyncio.gather(*(loop.create_connection(Client, host, port) for _ in some))
        clients += [client for _, client in made]
    for client in clients:
        client.transport.write(request)
    return Counter(await asyncio.gather(*(client.ended for client in clients)))


if __name__ == "__main__":
    host, port, number = sys.argv[1:]
    print(json.dumps(uvloop.run(ask(host, int(port), int(number), sys.stdin.buffer.read()))))  # noqa: T201 - its answer
