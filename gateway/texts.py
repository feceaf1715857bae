"""The tokenizers of the models, and what they remember."""

from gateway.api.keys import Texts
from gateway.config import Settings
from gateway.telemetry.metrics import Metrics
from gateway.tokens.cache import TokenCache
from python_backends.preprocessing.prompts import PromptBuilder
from python_backends.preprocessing.tokenizer import TextTokenizer


def read_texts(settings: Settings, metrics: Metrics) -> Texts:
    """Raises OSError."""
    models, size = settings.models, settings.tokens.cache_bytes
    remember = TokenCache(size, metrics.token_cache).of if size else _forget
    builder = PromptBuilder.from_dir(models.model_dir, remember(models.model_name))
    texts = Texts({models.model_name: builder}, {models.model_name: builder.tokenizer})
    if models.embedding_model_name is not None and models.embedding_model_dir is not None:
        memory = remember(models.embedding_model_name)
        texts.tokenizers[models.embedding_model_name] = TextTokenizer.from_dir(models.embedding_model_dir, memory)
    for spec in models.embedding_models or ():
        texts.tokenizers[spec.name] = TextTokenizer.from_dir(spec.dir, remember(spec.name))
    return texts


def _forget(_: str) -> None:
    """What every tokenizer remembers where no cache is wanted."""
