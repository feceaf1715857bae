"""The composition root of the control plane, and its small HTTP face: health, metrics and a page to look at."""

import asyncio
import logging
import secrets
import signal
from collections.abc import AsyncIterator

from aiohttp import web
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from control_plane import page
from control_plane.experiments import ledger as of_trials
from control_plane.experiments.observer import Observer
from control_plane.experiments.page import section
from control_plane.experiments.store import TrialStore
from control_plane.lease import Lease
from control_plane.ledger import Ledger
from control_plane.metrics import Meters
from control_plane.rollouts import ledger as of_rollouts
from control_plane.rollouts.controller import Controller
from control_plane.rollouts.store import Store
from control_plane.routing import RoutingDocument
from control_plane.settings import ControlSettings

log = logging.getLogger(__name__)

SETTINGS = web.AppKey("SETTINGS", ControlSettings)
CONTROLLER = web.AppKey("CONTROLLER", Controller)
OBSERVER = web.AppKey("OBSERVER", Observer)
METERS = web.AppKey("METERS", Meters)
_UNAVAILABLE = 503


def make_app(settings: ControlSettings) -> web.Application:
    """The application; what needs a running loop is made when it starts."""
    app = web.Application()
    app[SETTINGS] = settings
    app[METERS] = Meters()
    app.cleanup_ctx.append(_controller)
    app.router.add_get("/", show)
    app.router.add_get("/health/live", live)
    app.router.add_get("/health/ready", ready)
    app.router.add_get("/metrics", metrics)
    return app


async def _controller(app: web.Application) -> AsyncIterator[None]:
    settings = app[SETTINGS]
    # Rounds have a time limit of their own; redis-py's would swallow cancellations before Python 3.12.
    async with Redis.from_url(
        settings.valkey_url,
        socket_timeout=None,
        socket_connect_timeout=settings.lease_s / 2,
        retry=Retry(NoBackoff(), 1),
    ) as redis:
        lease = Lease(redis, secrets.token_hex(8), settings.lease_s)
        routing, meters = RoutingDocument(redis), app[METERS]
        trials = Ledger[of_trials.Seen](redis, of_trials.read_event)
        rollouts = Ledger(redis, of_rollouts.read_event)
        app[OBSERVER] = Observer(TrialStore(redis), trials, routing, lease=lease, meters=meters)
        app[CONTROLLER] = Controller(
            Store(redis), rollouts, routing, lease=lease, meters=meters, others=[app[OBSERVER]]
        )
        task = asyncio.create_task(app[CONTROLLER].run(settings.every_s, settings.lease_s / 2), name="controller")
        task.add_done_callback(_end_with)
        yield
        task.cancel()
        await asyncio.wait([task])


def _end_with(task: asyncio.Task[None]) -> None:
    """A mistake of ours must not leave a process behind that looks alive and does nothing."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("the controller failed", exc_info=error)
        signal.raise_signal(signal.SIGTERM)


async def show(request: web.Request) -> web.Response:
    controller, observer = request.app[CONTROLLER], request.app[OBSERVER]
    more = [section(trial, observer.known(trial)) for trial in observer.trials if trial.under_way]
    text = page.render(controller.rollouts, controller.leading, controller.worked_at, more)
    headers = {"content-security-policy": page.POLICY, "cache-control": "no-store", "x-content-type-options": "nosniff"}
    return web.Response(text=text, content_type="text/html", headers=headers)


async def live(request: web.Request) -> web.Response:
    """The process runs; nothing is said of what it depends on."""
    del request
    return web.json_response({"status": "live"})


async def ready(request: web.Request) -> web.Response:
    """Rounds of work succeed, whether this one acts or stands by."""
    controller = request.app[CONTROLLER]
    good = controller.fresh(request.app[SETTINGS].lease_s)
    body = {"status": "ready" if good else "unready", "leading": controller.leading}
    return web.json_response(body, status=200 if good else _UNAVAILABLE)


async def metrics(request: web.Request) -> web.Response:
    meters = request.app[METERS]
    return web.Response(body=meters.render(), headers={"content-type": meters.content_type})


async def serve(settings: ControlSettings) -> None:
    """Until SIGTERM or SIGINT. Raises OSError when the address cannot be used."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    runner = web.AppRunner(make_app(settings), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
        log.info("listening on %s", ", ".join(f"http://{host}:{port}" for host, port, *_ in runner.addresses))
        await stop.wait()
    finally:
        await runner.cleanup()
