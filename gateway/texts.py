"""The tokenizers of the models, and what they remember."""

from pathlib import Path

from gateway.api.keys import Texts
from gateway.config import Settings
from gateway.telemetry.metrics import Metrics
from gateway.tokens.cache import TokenCache
from python_backends.preprocessing.prompts import PromptBuilder
from python_backends.preprocessing.tokenizer import TextTokenizer


def read_texts(settings: Settings, metrics: Metrics) -> Texts:
    """Models from the same directory share one builder, and what its tokenizer remembers. Raises OSError."""
    size = settings.tokens.cache_bytes
    remember = TokenCache(size, metrics.token_cache).of if size else _forget
    made: dict[Path, PromptBuilder] = {}
    for spec in settings.models.generating:
        if spec.dir not in made:
            made[spec.dir] = PromptBuilder.from_dir(spec.dir, remember(spec.name))
    builders = {spec.name: made[spec.dir] for spec in settings.models.generating}
    texts = Texts(builders, {name: builder.tokenizer for name, builder in builders.items()})
    for name, directory in settings.models.directories.items():
        if name not in builders:
            texts.tokenizers[name] = TextTokenizer.from_dir(directory, remember(name))
    return texts


def _forget(_: str) -> None:
    """What every tokenizer remembers where no cache is wanted."""
