"""The versions in the Triton of an embedded stack, as `trireme versions` sees them."""

from collections.abc import Callable

from trireme.parts import repository_path
from trireme.settings import LOOPBACK
from trireme.stack import EmbeddedStack
from trireme.versions import Server, Versions


def versions_of(stack: EmbeddedStack, say: Callable[[str], None] = lambda _: None) -> Versions:
    ports = stack.settings.ports
    server = Server(
        host=LOOPBACK,
        port=ports.triton_http,
        grpc=f"{LOOPBACK}:{ports.triton_grpc}",
        repository=repository_path(stack.settings),
    )
    return Versions(stack.settings, server, stack.settings.model.name, say, idle_s=0.5)
