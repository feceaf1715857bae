"""Vectors of a real encoder through the `openai` client, against those that its authors' library gives."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.e2e.conftest import SECOND_EMBEDDING_MODEL
from tests.support.triton import DirectTriton
from trireme.stack import EmbeddedStack

pytestmark = pytest.mark.e2e
REFERENCE = Path(__file__).parents[1] / "data" / "minilm_sentence_transformers.json"
ALIKE = 0.9999
TEXTS = ["short", "a rather longer sentence about ships and the sea", "naïve 🛶", "x " * 100]


class Reference:
    """What sentence-transformers makes of some texts: tests/data/make_minilm_reference.py wrote it down."""

    def __init__(self) -> None:
        stored = json.loads(REFERENCE.read_text("utf-8"))
        self.texts: list[str] = stored["texts"]
        self.vectors = {name: [floats(one) for one in packed] for name, packed in stored["vectors"].items()}


def floats(packed: str) -> Any:
    return np.frombuffer(base64.b64decode(packed), dtype="<f4")


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.fixture(scope="module")
def minilm(stack: EmbeddedStack) -> str:
    return stack.settings.embedding_model.name


def embed(client: openai.OpenAI, model: str, texts: Sequence[str], **more: Any) -> Any:
    """[texts, dimensions]"""
    answer = client.embeddings.create(model=model, input=list(texts), encoding_format="float", extra_body=more)
    return np.array([one.embedding for one in answer.data])


def cosine(one: Any, other: Any) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_vectors_are_those_of_sentence_transformers(client: openai.OpenAI, minilm: str, reference: Reference) -> None:
    """In one batch here, and one at a time there; what is too long is cut, as that library always does."""
    vectors = embed(client, minilm, reference.texts, truncate="end")
    assert len(vectors) == len(reference.vectors["mean"]) > 12
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for text, vector, expected in zip(reference.texts, vectors, reference.vectors["mean"], strict=True):
        assert cosine(vector, expected) >= ALIKE, text


def test_a_direct_client_gets_the_same(direct: DirectTriton, client: openai.OpenAI, minilm: str) -> None:
    assert np.allclose(direct.embed(text=TEXTS)["embedding"], embed(client, minilm, TEXTS), atol=1e-5)


def test_a_second_model_pools_as_its_settings_or_the_request_say(client: openai.OpenAI, reference: Reference) -> None:
    asked = {"cls": {}, "mean": {"pooling": "mean"}, "last": {"pooling": "last", "normalize": False}}
    texts = reference.texts[: len(reference.vectors["cls"])]
    for pooling, options in asked.items():
        vectors = embed(client, SECOND_EMBEDDING_MODEL, texts, **options)
        pairs = zip(vectors, reference.vectors[pooling][: len(texts)], strict=True)
        assert all(cosine(*pair) >= ALIKE for pair in pairs), pooling
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4) == (pooling != "last")


def test_shorter_vectors_come_from_models_that_were_trained_for_them(client: openai.OpenAI, minilm: str) -> None:
    whole, short = (
        embed(client, SECOND_EMBEDDING_MODEL, TEXTS),
        embed(client, SECOND_EMBEDDING_MODEL, TEXTS, dimensions=64),
    )
    assert np.allclose(short, whole[:, :64] / np.linalg.norm(whole[:, :64], axis=1, keepdims=True), atol=1e-5)
    for model, dimensions, words in (
        (SECOND_EMBEDDING_MODEL, 65, "64, 128"),
        (minilm, 64, "was not trained for fewer"),
    ):
        with pytest.raises(openai.BadRequestError, match=words) as refused:
            client.embeddings.create(model=model, input="a cat", dimensions=dimensions)
        assert refused.value.param == "dimensions"


def test_a_long_text_is_read_as_far_as_the_request_allows(
    client: openai.OpenAI, minilm: str, reference: Reference
) -> None:
    text = max(reference.texts, key=len)
    with pytest.raises(openai.BadRequestError, match="truncate"):
        client.embeddings.create(model=minilm, input=text)
    answer = client.embeddings.create(model=minilm, input=text, encoding_format="float", extra_body={"truncate": "end"})
    assert answer.usage.prompt_tokens == 256
    expected = reference.vectors["mean"][reference.texts.index(text)]
    assert cosine(np.array(answer.data[0].embedding), expected) >= ALIKE


def test_2048_inputs_of_one_request_come_back_in_order(client: openai.OpenAI, minilm: str) -> None:
    texts = [f"ship {number}{' of oak' * (number % 3)}" for number in range(2048)]
    answer = client.embeddings.create(model=minilm, input=texts, encoding_format="base64")
    packed: Sequence[Any] = [one.embedding for one in answer.data]
    vectors = np.array(
        [np.frombuffer(base64.b64decode(one), dtype="<f4") if isinstance(one, str) else one for one in packed]
    )
    assert vectors.shape == (2048, 384)
    some = [0, 6, 1000, 2047]
    assert np.allclose(vectors[some], embed(client, minilm, [texts[one] for one in some]), atol=1e-4)
    with pytest.raises(openai.BadRequestError, match="2048"):
        client.embeddings.create(model=minilm, input=["x"] * 2049)


def test_vectors_say_what_is_alike_and_rank_it(client: openai.OpenAI, stack: EmbeddedStack, minilm: str) -> None:
    texts = ["A cat sits on the mat.", "The kitten rests on a rug.", "Stock markets fell sharply."]
    vectors = embed(client, minilm, texts)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2] + 0.3
    body = {"model": minilm, "query": texts[0], "documents": [texts[2], texts[1]], "return_documents": True}
    headers = {"authorization": f"Bearer {stack.dev_key}"}
    answer = httpx.post(f"{stack.gateway_url}/v1/rerank", json=body, headers=headers, timeout=60).json()
    assert [one["index"] for one in answer["results"]] == [1, 0]
    assert answer["results"][0]["document"] == {"text": texts[1]}
    assert answer["results"][0]["relevance_score"] == pytest.approx(vectors[0] @ vectors[1], abs=1e-4)
    assert answer["usage"]["total_tokens"] == 25
