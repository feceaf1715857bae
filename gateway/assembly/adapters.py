"""What adapters are made of, put together for the composition root."""

from redis.asyncio import Redis

from gateway.adapters.adapters import Adapters
from gateway.adapters.keeper import Keeper
from gateway.adapters.storage import adapter_registry
from gateway.config import Settings
from gateway.routing.models import Models
from gateway.routing.router import Router
from gateway.telemetry.metrics import Metrics
from gateway.triton.client import TritonClient
from gateway.triton.control import EngineControl


def read_adapters(settings: Settings, redis: Redis, models: Models, metrics: Metrics) -> Adapters:
    """Beside the models from now on."""
    document = adapter_registry(redis, settings.auth.valkey_timeout_s)
    adapters = Adapters(document, settings.adapters, models, settings.models.directories, metrics)
    models.accept_adapters(adapters)
    return adapters


def make_keeper(
    settings: Settings, adapters: Adapters, router: Router, client: TritonClient, metrics: Metrics
) -> Keeper:
    control = EngineControl(client, settings.triton.first_byte_timeout_s)
    return Keeper(adapters, router.shelves, control, metrics.adapter_orders, settings.adapters.refresh_s)
