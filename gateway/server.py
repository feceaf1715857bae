"""The process: listens, until a signal ends it; then lets running requests finish."""

import asyncio
import logging
import signal

from aiohttp import web

from gateway.api.keys import GATE
from gateway.app import make_app
from gateway.assembly.connections import FAREWELL_S
from gateway.config import Settings
from gateway.errors import ShuttingDown

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 75.0
# Connections that may wait to be accepted, as far as the kernel lets them (`somaxconn`): one more waits for a second.
BACKLOG = 4096


async def serve(settings: Settings) -> None:
    """Until SIGTERM or SIGINT; then drains. Raises OSError when the address cannot be used."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    runner = make_runner(make_app(settings))
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.http.host, settings.http.port, backlog=BACKLOG).start()
        log.info("listening on %s", ", ".join(f"http://{host}:{port}" for host, port, *_ in runner.addresses))
        await stop.wait()
        await drain(runner.app, settings.http.drain_s)
    finally:
        await runner.cleanup()
    log.info("stopped")


def make_runner(app: web.Application) -> web.AppRunner:
    """Handlers are cancelled when their client leaves; aiohttp does that only when told to."""
    return web.AppRunner(
        app, handler_cancellation=True, shutdown_timeout=FAREWELL_S / 2, keepalive_timeout=KEEP_ALIVE_S, access_log=None
    )


async def drain(app: web.Application, seconds: float) -> None:
    """New requests get 503 from now on; those that run have `seconds`, and are ended then."""
    gate = app[GATE]
    gate.close()
    log.info("shutting down: running requests have %g s", seconds)
    try:
        async with asyncio.timeout(seconds):
            await gate.drained()
    except TimeoutError:
        gate.end_all(ShuttingDown("the server is shutting down: try again", retry_after=1.0))
