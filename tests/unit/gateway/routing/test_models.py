"""What clients may call a model, and what its directory says of it."""

import json
from pathlib import Path

import pytest

from gateway.core.call import Model
from gateway.errors import InvalidRequest, ModelNotFound
from gateway.routing.models import Models, ModelSettings, read_models

MODELS = Models([Model("chat", "generate", 100, 0), Model("vec", "embed", 50, 0, 4)])


def test_models_are_found_by_name_and_task() -> None:
    assert MODELS.resolve("vec", "embed").dimensions == 4
    with pytest.raises(ModelNotFound, match="chat, vec"):
        MODELS.resolve("other", "embed")
    with pytest.raises(InvalidRequest, match="/v1/embeddings"):
        MODELS.resolve("vec", "generate")
    with pytest.raises(InvalidRequest, match="required"):
        MODELS.find(None)


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
