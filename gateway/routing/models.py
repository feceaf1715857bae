"""The models that clients can name."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import msgspec

from gateway.core.call import Call, Caller, Model, Task
from gateway.core.settings import Setting
from gateway.errors import InvalidRequest, ModelNotAllowed, ModelNotFound
from python_backends.messages import Truncation

Length = Annotated[int, msgspec.Meta(ge=1)]
ToolParser = Literal["auto", "hermes", "llama3_json", "mistral", "pythonic", "json"]
ReasoningParser = Literal["auto", "none", "think", "mistral"]


class EmbeddingSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An embedding model beside the first one. `dir`: its directory; its name is that of the argument `models` of the
    Triton model `embed` too.
    """

    name: str
    dir: Path
    max_model_len: Length | None = None
    truncate: Truncation = "none"


_ENDPOINTS: dict[Task, str] = {
    "generate": "/v1/chat/completions or /v1/completions",
    "embed": "/v1/embeddings",
}


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another model that generates. `max_model_len`: tokens; None: as its config.json says. Parsers: docs/tools.md."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    dir: Path
    max_model_len: Length | None = None
    tool_parser: ToolParser = "auto"
    reasoning_parser: ReasoningParser = "auto"


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    model_name: Annotated[str, Setting("Name of the model that generates, as clients write it.", env="MODEL_NAME")]
    model_dir: Annotated[
        Path,
        Setting("Its directory: config.json, tokenizer.json, chat template; weights are not needed.", env="MODEL_DIR"),
    ]
    max_model_len: Annotated[
        Length | None,
        Setting(
            "Its context: prompt and answer together; from config.json when not set.",
            env="MAX_MODEL_LEN",
            unit="tokens",
        ),
    ] = None
    tool_parser: Annotated[
        ToolParser,
        Setting(
            "How the model writes tool calls; `auto`: as its chat template shows it. The same as in Triton.",
            env="TOOL_PARSER",
        ),
    ] = "auto"
    reasoning_parser: Annotated[
        ReasoningParser,
        Setting(
            "What stands around its thoughts; `auto`: what its chat template shows. The same as in Triton.",
            env="REASONING_PARSER",
        ),
    ] = "auto"
    more: Annotated[
        list[ModelSpec] | None,
        Setting(
            'Other models that generate (JSON in the variable): `[{"name": "large", "dir": "/models/large"}]`, with '
            "`max_model_len` where it is not that of config.json, and parsers of its own. Which backends serve which: "
            "`routing.backends`.",
            env="MORE_MODELS",
        ),
    ] = None
    embedding_model_name: Annotated[
        str | None,
        Setting("Name of the embedding model; without one there are no embeddings.", env="EMBEDDING_MODEL_NAME"),
    ] = None
    embedding_model_dir: Annotated[Path | None, Setting("Its directory.", env="EMBEDDING_MODEL_DIR")] = None
    embedding_max_model_len: Annotated[
        Length | None,
        Setting(
            "Longest text it takes; from its directory when not set.", env="EMBEDDING_MAX_MODEL_LEN", unit="tokens"
        ),
    ] = None
    embedding_truncate: Annotated[
        Truncation,
        Setting(
            "Texts that are too long, where the request does not say: `none` refuses them, `end` and `start` leave out "
            "that part.",
            env="EMBEDDING_TRUNCATE",
        ),
    ] = "none"
    embedding_models: Annotated[
        list[EmbeddingSpec] | None,
        Setting(
            "Embedding models beside that one, as a list (JSON in the variable): "
            '`[{"name": "a", "dir": "/models/a"}]`, '
            "with `max_model_len` and `truncate` if need be.",
            env="EMBEDDING_MODELS",
        ),
    ] = None

    @property
    def generating(self) -> list[ModelSpec]:
        """All of them."""
        first = ModelSpec(
            name=self.model_name,
            dir=self.model_dir,
            max_model_len=self.max_model_len,
            tool_parser=self.tool_parser,
            reasoning_parser=self.reasoning_parser,
        )
        return [first, *(self.more or ())]

    @property
    def embedding(self) -> list[str]:
        """Names of those that embed."""
        return [*filter(None, [self.embedding_model_name]), *(spec.name for spec in self.embedding_models or ())]

    @property
    def directories(self) -> dict[str, Path]:
        """By name, those of the embedding models too."""
        found = {spec.name: spec.dir for spec in self.generating}
        if self.embedding_model_name is not None and self.embedding_model_dir is not None:
            found[self.embedding_model_name] = self.embedding_model_dir
        return found | {spec.name: spec.dir for spec in self.embedding_models or ()}


class Adapters(Protocol):
    """Models that are adapters of others."""

    def __iter__(self) -> Iterator[Model]: ...

    def find(self, name: str) -> Model | None: ...


class _NoAdapters(list[Model]):
    def find(self, name: str) -> Model | None:
        return None


class Models:
    """All models by name."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models = {model.name: model for model in models}
        self._name_of: Callable[[str], str] = str
        self._versions_of: Callable[[str], Sequence[str]] = _none
        self._adapters: Adapters = _NoAdapters()

    def __iter__(self) -> Iterator[Model]:
        """Those that are no adapters."""
        return iter(self._models.values())

    def accept_aliases(self, name_of: Callable[[str], str]) -> None:
        """`name_of`: an alias → the model's name; any other name → itself."""
        self._name_of = name_of

    def accept_versions(self, versions_of: Callable[[str], Sequence[str]]) -> None:
        """`versions_of`: those of a model that may be asked for as `name@version`."""
        self._versions_of = versions_of

    def versions(self, model: Model) -> Sequence[str]:
        """Those that may be asked for, the oldest first."""
        return self._versions_of(model.name)

    def accept_adapters(self, adapters: "Adapters") -> None:
        """Beside the models. A model goes before an adapter of the same name."""
        self._adapters = adapters

    def taken(self, name: str) -> bool:
        """Whether this is a model's name or an alias."""
        return self._name_of(name) in self._models

    def allowed(self, call: Call) -> Iterator[Model]:
        """Those that the caller may use."""
        caller, models = call.caller, (*self._models.values(), *self._adapters)
        return (model for model in models if caller is None or _may_use(caller, model))

    def plain(self, name: str) -> Model:
        """The model of this name, whoever asks. Raises KeyError."""
        return self._models[name]

    def find(self, call: Call, name: str | None) -> Model:
        """Raises InvalidRequest without a name, ModelNotFound for an unknown one, ModelNotAllowed."""
        if name is None:
            raise InvalidRequest(
                f"model is required; known models: {self._names(call)}",
                param="model",
                code="missing_required_parameter",
            )
        model = self._models.get(self._name_of(name)) or self._adapters.find(name) or self._by_version(call, name)
        if model is None:
            raise ModelNotFound(f"there is no model {name!r}; known models: {self._names(call)}", param="model")
        if call.caller is not None and not _may_use(call.caller, model):
            raise ModelNotAllowed(
                f"your API key may not use {name}; it may use: {self._names(call) or 'none of this server'}",
                param="model",
            )
        return model

    def resolve(self, call: Call, name: str | None, task: Task) -> Model:
        """`find`, and raises InvalidRequest for a model that does something else."""
        model = self.find(call, name)
        if model.task != task:
            raise InvalidRequest(f"{name} does not do that: use {_ENDPOINTS[model.task]}", param="model")
        return model

    def _by_version(self, call: Call, name: str) -> Model | None:
        """`name@2`: that version and no other. Raises ModelNotFound when the model has it not."""
        base, separator, version = name.rpartition("@")
        model = self._models.get(self._name_of(base)) if separator else None
        if model is None:
            return None
        call.asked_version = version
        if version not in self._versions_of(model.name) and (call.caller is None or call.caller.may_use(model.name)):
            known = ", ".join(self._versions_of(model.name)) or "none that can be asked for by number"
            raise ModelNotFound(f"{base} has no version {version!r}; its versions: {known}", param="model")
        return model

    def _names(self, call: Call) -> str:
        return ", ".join(model.name for model in self.allowed(call))


def _may_use(caller: Caller, model: Model) -> bool:
    """A router may be used by whoever may use it, or any of its candidates."""
    return any(caller.may_use(name) for name in (model.name, *model.candidates))


def _none(_: str) -> Sequence[str]:
    return ()


def read_models(settings: ModelSettings) -> list[Model]:
    """What the model directories say. Raises OSError, ValueError or KeyError where they do not."""
    found = [_generating(spec) for spec in settings.generating]
    if settings.embedding_model_name is not None and settings.embedding_model_dir is not None:
        first = EmbeddingSpec(
            name=settings.embedding_model_name,
            dir=settings.embedding_model_dir,
            max_model_len=settings.embedding_max_model_len,
            truncate=settings.embedding_truncate,
        )
        found.append(_embedding(first))
    return found + [_embedding(spec, spec.name) for spec in settings.embedding_models or ()]


def _generating(spec: ModelSpec) -> Model:
    return Model(
        name=spec.name,
        task="generate",
        max_model_len=spec.max_model_len or int(_config(spec.dir)["max_position_embeddings"]),
        created=_created(spec.dir),
    )


def _embedding(spec: EmbeddingSpec, encoder: str | None = None) -> Model:
    config = _config(spec.dir)
    return Model(
        name=spec.name,
        task="embed",
        max_model_len=spec.max_model_len or _longest_text(spec.dir, config),
        created=_created(spec.dir),
        dimensions=int(config["hidden_size"]),
        encoder=encoder,
        truncate=spec.truncate,
    )


def _longest_text(directory: Path, config: dict[str, Any]) -> int:
    """Sentence transformers are often trained for less than their positions would allow, and say so in a file."""
    file = directory / "sentence_bert_config.json"
    limits = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return int(limits.get("max_seq_length") or config["max_position_embeddings"])


def _config(directory: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((directory / "config.json").read_text("utf-8"))
    return config


def _created(directory: Path) -> int:
    return int((directory / "config.json").stat().st_mtime)
