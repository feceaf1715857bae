"""What handlers find in the application, and in each request."""

from dataclasses import dataclass
from typing import TypeAlias

from aiohttp import web

from gateway.accounting.feedback import Feedback
from gateway.accounting.ledger import Ledger
from gateway.accounting.stream import LedgerStream
from gateway.accounting.usage import UsageReader
from gateway.adapters.adapters import Adapters
from gateway.admission.gate import Gate
from gateway.auth.authenticator import Authenticator
from gateway.auth.store import KeyStore
from gateway.auth.tenants import TenantStore
from gateway.cache.caching import Cache
from gateway.cache.idempotency import Idempotency
from gateway.config import HttpSettings
from gateway.core.call import Call
from gateway.core.job import Chunk, EmbeddingJob, GenerationJob, Vectors
from gateway.limits.limiter import Limiter
from gateway.pipeline import Pipeline
from gateway.routing.directory import Directory
from gateway.routing.models import Models
from gateway.routing.router import Router
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.traces import Traces
from gateway.tokens.offload import Offload
from python_backends.preprocessing.prompts import PromptBuilder
from python_backends.preprocessing.schema import EmbeddingRequest, GenerationRequest
from python_backends.preprocessing.tokenizer import TextTokenizer

GenerationPipeline: TypeAlias = Pipeline[GenerationRequest, GenerationJob, Chunk]
EmbeddingPipeline: TypeAlias = Pipeline[EmbeddingRequest, EmbeddingJob, Vectors]


@dataclass(frozen=True)
class Texts:
    """How models turn text into tokens, by model name."""

    builders: dict[str, PromptBuilder]
    tokenizers: dict[str, TextTokenizer]


HTTP = web.AppKey("HTTP", HttpSettings)
METRICS = web.AppKey("METRICS", Metrics)
TRACES = web.AppKey("TRACES", Traces)
LEDGER = web.AppKey("LEDGER", Ledger)
ENTRIES = web.AppKey("ENTRIES", LedgerStream)
FEEDBACK = web.AppKey("FEEDBACK", Feedback)
USAGE = web.AppKey("USAGE", UsageReader)
CURRENCY = web.AppKey("CURRENCY", str)
MODELS = web.AppKey("MODELS", Models)
TEXTS = web.AppKey("TEXTS", Texts)
OFFLOAD = web.AppKey("OFFLOAD", Offload)
TOKENIZING = web.AppKey("TOKENIZING", Offload)
AUTHENTICATOR = web.AppKey("AUTHENTICATOR", Authenticator)
KEY_STORE = web.AppKey("KEY_STORE", KeyStore)
TENANT_STORE = web.AppKey("TENANT_STORE", TenantStore)
GATE = web.AppKey("GATE", Gate)
LIMITER = web.AppKey("LIMITER", Limiter)
ROUTER = web.AppKey("ROUTER", Router)
ADAPTERS = web.AppKey("ADAPTERS", Adapters)
DIRECTORY = web.AppKey("DIRECTORY", Directory)
CACHE = web.AppKey("CACHE", Cache)
IDEMPOTENCY = web.AppKey("IDEMPOTENCY", Idempotency)
GENERATION = web.AppKey("GENERATION", GenerationPipeline)
EMBEDDING = web.AppKey("EMBEDDING", EmbeddingPipeline)
OPENAPI = web.AppKey("OPENAPI", bytes)

CALL = web.RequestKey("CALL", Call)
