"""The composition root: everything in the order in which it comes to life."""

from importlib.metadata import version

from aiohttp import web

from gateway.accounting.prices import Prices
from gateway.api.endpoints import add_endpoints, endpoints
from gateway.api.keys import CURRENCY, HTTP, METRICS, MODELS, OPENAPI, TEXTS
from gateway.api.middleware import access
from gateway.api.openapi import describe
from gateway.assembly.building import build_models
from gateway.assembly.connections import spool, tasks, threads, traces, triton, valkey
from gateway.assembly.identity import keys, tokens
from gateway.assembly.keys import PRICES, SETTINGS
from gateway.assembly.stages import forms, ledger, limits, repeats, stages, watch
from gateway.assembly.texts import read_texts
from gateway.config import Settings
from gateway.telemetry.metrics import Metrics


def make_app(settings: Settings) -> web.Application:
    """The application; what needs a running loop is made when it starts. Raises OSError for unreadable model files."""
    app = web.Application(middlewares=[access], client_max_size=settings.http.max_body_bytes)
    metrics = Metrics()
    table = endpoints(metrics_key=settings.http.metrics_key)
    app[SETTINGS] = settings
    app[HTTP] = settings.http
    app[METRICS] = metrics
    app[PRICES] = Prices(settings.accounting)
    app[CURRENCY] = settings.accounting.currency
    app[MODELS] = build_models(settings)
    app[TEXTS] = read_texts(settings, metrics)
    app[OPENAPI] = describe(table, version("trireme"))
    app.cleanup_ctx.extend([threads, tasks, traces, triton, spool, valkey, ledger, tokens, keys])
    app.cleanup_ctx.extend([repeats, limits, forms, stages, watch])
    add_endpoints(app, table)
    return app
