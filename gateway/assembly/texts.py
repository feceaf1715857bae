"""The tokenizers of the models, and what they remember."""

from pathlib import Path

from gateway.api.keys import Texts
from gateway.config import Settings
from gateway.routing.models import ModelSpec
from gateway.telemetry.metrics import Metrics
from gateway.tokens.cache import TokenCache
from python_backends.preprocessing.dialect import Parsers
from python_backends.preprocessing.prompts import PromptBuilder
from python_backends.preprocessing.tokenizer import TextTokenizer


def read_texts(settings: Settings, metrics: Metrics) -> Texts:
    """Models that read and write alike share one builder, and what its tokenizer remembers. Raises OSError."""
    size = settings.tokens.cache_bytes
    remember = TokenCache(size, metrics.token_cache).of if size else _forget
    made: dict[tuple[Path, Parsers], PromptBuilder] = {}
    for spec in settings.models.generating:
        if (kind := _kind(spec)) not in made:
            made[kind] = PromptBuilder.from_dir(spec.dir, remember(spec.name), parsers=kind[1])
    builders = {spec.name: made[_kind(spec)] for spec in settings.models.generating}
    texts = Texts(builders, {name: builder.tokenizer for name, builder in builders.items()})
    for name, directory in settings.models.directories.items():
        if name not in builders:
            texts.tokenizers[name] = TextTokenizer.from_dir(directory, remember(name))
    return texts


def _kind(spec: ModelSpec) -> tuple[Path, Parsers]:
    return spec.dir, Parsers(spec.tool_parser, spec.reasoning_parser)


def _forget(_: str) -> None:
    """What every tokenizer remembers where no cache is wanted."""
