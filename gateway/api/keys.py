"""What handlers find in the application, and in each request."""

from dataclasses import dataclass
from typing import TypeAlias

from aiohttp import web

from gateway.accounting.ledger import Ledger
from gateway.admission.gate import Gate
from gateway.auth.authenticator import Authenticator
from gateway.config import HttpSettings
from gateway.core.call import Call
from gateway.core.job import Chunk, EmbeddingJob, GenerationJob, Vectors
from gateway.pipeline import Pipeline
from gateway.routing.models import Models
from gateway.routing.router import Router
from gateway.telemetry.metrics import Metrics
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
LEDGER = web.AppKey("LEDGER", Ledger)
MODELS = web.AppKey("MODELS", Models)
TEXTS = web.AppKey("TEXTS", Texts)
OFFLOAD = web.AppKey("OFFLOAD", Offload)
TOKENIZING = web.AppKey("TOKENIZING", Offload)
AUTHENTICATOR = web.AppKey("AUTHENTICATOR", Authenticator)
GATE = web.AppKey("GATE", Gate)
ROUTER = web.AppKey("ROUTER", Router)
GENERATION = web.AppKey("GENERATION", GenerationPipeline)
EMBEDDING = web.AppKey("EMBEDDING", EmbeddingPipeline)
OPENAPI = web.AppKey("OPENAPI", bytes)

CALL = web.RequestKey("CALL", Call)
