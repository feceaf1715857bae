"""Threads, tasks and connections: what the stages work with, and how long it lives."""

import os
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import aiohttp
from aiohttp import web

from gateway.accounting.spool import Spool, default_directory
from gateway.api.keys import METRICS, OFFLOAD, TOKENIZING, TRACES
from gateway.assembly.keys import CLIENT, OUTBOX, REDIS, SEARCHING, SETTINGS, SIDELINE, SPOOL, TASKS, VALKEY
from gateway.telemetry.export import SpanQueue, otlp_exporter
from gateway.telemetry.tasks import Tasks
from gateway.telemetry.traces import Traces
from gateway.tokens.offload import Offload
from gateway.triton.client import TritonClient
from gateway.triton.connector import Connector
from gateway.valkey.client import client
from gateway.valkey.cluster import ClusterWire
from gateway.valkey.connection import Valkey
from gateway.valkey.outbox import Outbox
from gateway.valkey.sideline import SideLine
from gateway.valkey.wire import Wire

# Between the end of draining and the end of the process: clients read their last error, aborts reach the engine.
FAREWELL_S = 1.0
SPARE_CONNECTIONS = 16
# Of so many questions the nearest is found in a thread: about half a millisecond's work.
SEARCH_ROWS = 4096


async def threads(app: web.Application) -> AsyncIterator[None]:
    settings = app[SETTINGS]
    pool = ThreadPoolExecutor(settings.tokens.threads, thread_name_prefix="offload")
    app[OFFLOAD] = Offload(pool, settings.http.inline_body_bytes)
    app[TOKENIZING] = Offload(pool, settings.tokens.thread_bytes)
    app[SEARCHING] = Offload(pool, SEARCH_ROWS)
    yield
    pool.shutdown(wait=False, cancel_futures=True)


async def tasks(app: web.Application) -> AsyncIterator[None]:
    """Ends before the connections that the tasks use."""
    app[TASKS] = Tasks()
    yield


async def traces(app: web.Application) -> AsyncIterator[None]:
    """Where spans are wanted. Ends after the tasks, so that it sends the spans of the last requests too."""
    settings = app[SETTINGS].traces
    if settings.endpoint is None:
        yield
        return
    queue = SpanQueue(otlp_exporter(settings.endpoint), settings.queue_requests, app[METRICS].spans_dropped)
    app[TRACES] = Traces(settings, queue, f"{socket.gethostname()}-{os.getpid()}")
    app[TASKS].keep("send spans", queue.run)
    yield
    await queue.close(FAREWELL_S)


async def triton(app: web.Application) -> AsyncIterator[None]:
    """Connections suffice for every request that may run, so that aborts and probes never wait for one."""
    settings = app[SETTINGS]
    most = settings.admission.max_running * settings.triton.prompts_at_once + SPARE_CONNECTIONS
    async with aiohttp.ClientSession(
        connector=Connector(settings.triton.connect_timeout_s, most),
        timeout=aiohttp.ClientTimeout(total=None),
        headers={"accept-encoding": "identity"},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        app[CLIENT] = TritonClient(session, settings.triton)
        yield


async def spool(app: web.Application) -> AsyncIterator[None]:
    """Before the outbox and after it: what that cannot send at the end still finds its place here."""
    settings, metrics = app[SETTINGS].accounting, app[METRICS]
    directory = settings.spool_dir or default_directory()
    app[SPOOL] = Spool(directory, settings.spool_bytes, metrics.ledger_spooled, metrics.ledger_dropped)
    await app[SPOOL].open()
    yield
    await app[SPOOL].close()


async def valkey(app: web.Application) -> AsyncIterator[None]:
    """The background tasks end here, with what they need still there."""
    settings = app[SETTINGS].auth
    url, cluster = settings.valkey_url, settings.valkey_cluster
    async with client(
        url, cluster=cluster, connections=settings.valkey_connections, timeout_s=settings.valkey_timeout_s
    ) as redis:
        app[REDIS] = redis
        wire, aside = (ClusterWire(url) if cluster else Wire.to(url) for _ in range(2))
        app[VALKEY] = Valkey(wire, app[SETTINGS].valkey, app[METRICS].valkey_degraded)
        app[SIDELINE] = SideLine(aside, app[SETTINGS].valkey, lambda: app[VALKEY].available)
        app[OUTBOX] = Outbox(app[VALKEY])
        app[TASKS].keep("watch Valkey", app[VALKEY].watch)
        app[TASKS].keep("send outbox", app[OUTBOX].run)
        yield
        await app[TASKS].close(FAREWELL_S)
        await app[OUTBOX].flush()
        wire.drop()
        aside.drop()
