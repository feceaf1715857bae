"""What clients may call a model, and what its directory says of it."""

import json
from pathlib import Path

import pytest

from gateway.core.call import Call, Caller, Model
from gateway.core.limit import TimeLimit
from gateway.errors import InvalidRequest, ModelNotAllowed, ModelNotFound
from gateway.routing.models import Models, ModelSettings, read_models

MODELS = Models([Model("chat", "generate", 100, 0), Model("vec", "embed", 50, 0, 4)])


def call_of(models: frozenset[str] | None = None) -> Call:
    call = Call(id="r", uid="u", route="/", limit=TimeLimit(10))
    call.caller = Caller("key_1", "acme", frozenset({"inference"}), models=models)
    return call


def test_models_are_found_by_name_and_task() -> None:
    call = call_of()
    assert MODELS.resolve(call, "vec", "embed").dimensions == 4
    with pytest.raises(ModelNotFound, match="chat, vec"):
        MODELS.resolve(call, "other", "embed")
    with pytest.raises(InvalidRequest, match="/v1/embeddings"):
        MODELS.resolve(call, "vec", "generate")
    with pytest.raises(InvalidRequest, match="required"):
        MODELS.find(call, None)


def test_a_key_sees_and_uses_only_the_models_that_it_may() -> None:
    call = call_of(frozenset({"chat", "elsewhere"}))
    assert [model.name for model in MODELS.allowed(call)] == ["chat"]
    assert MODELS.resolve(call, "chat", "generate").name == "chat"
    with pytest.raises(ModelNotAllowed, match="may use: chat") as raised:
        MODELS.resolve(call, "vec", "embed")
    assert (raised.value.param, raised.value.code) == ("model", "model_not_allowed")
    with pytest.raises(ModelNotFound) as unknown:
        MODELS.resolve(call, "other", "embed")
    assert "vec" not in unknown.value.message


def test_lengths_come_from_the_directory_unless_they_are_set(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 512, "hidden_size": 8}))
    settings = ModelSettings(
        model_name="a", model_dir=model_dir, embedding_model_name="b", embedding_model_dir=tmp_path
    )
    assert [model.max_model_len for model in read_models(settings)] == [256, 512]
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    assert [model.max_model_len for model in read_models(settings)] == [256, 128]
    explicit = ModelSettings(
        model_name="a",
        model_dir=model_dir,
        max_model_len=99,
        embedding_model_name="b",
        embedding_model_dir=tmp_path,
        embedding_max_model_len=66,
    )
    assert [model.max_model_len for model in read_models(explicit)] == [99, 66]


def test_a_version_is_asked_for_behind_the_name() -> None:
    models = Models(MODELS)
    models.accept_versions({"chat": ["1", "2"], "vec": []}.__getitem__)
    call = call_of()
    assert models.resolve(call, "chat@2", "generate").name == "chat"
    assert call.asked_version == "2"
    with pytest.raises(ModelNotFound, match="no version '3'; its versions: 1, 2"):
        models.find(call_of(), "chat@3")
    with pytest.raises(ModelNotFound, match="none that can be asked for"):
        models.find(call_of(), "vec@1")
    with pytest.raises(ModelNotFound, match="no model 'other@1'"):
        models.find(call_of(), "other@1")


def test_versions_of_a_model_that_a_key_may_not_use_are_not_told() -> None:
    models = Models(MODELS)
    models.accept_versions({"chat": ["1", "2"], "vec": ["1"]}.__getitem__)
    with pytest.raises(ModelNotAllowed):
        models.find(call_of(frozenset({"vec"})), "chat@9")


def test_a_name_with_an_at_sign_of_its_own_is_a_name() -> None:
    models = Models([Model("chat@home", "generate", 100, 0)])
    call = call_of()
    assert models.find(call, "chat@home").name == "chat@home"
    assert call.asked_version is None
