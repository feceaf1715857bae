"""Encoder models of the sentence-transformers layout, run by transformers in this process.

One process instead of a second engine's three: docs/adr/0004-embeddings-in-process.md.
"""

import json
import locale
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from python_backends.embedding.embedder import Terms, Vectors, batches
from python_backends.messages import Pooling

POOLINGS: Final = get_args(Pooling)
POOLING_MODES: Final[dict[str, Pooling]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


def read_terms(model_dir: Path, arguments: Mapping[str, Any]) -> Terms:
    """What the files beside the weights say, and over them the arguments `pooling` (the usual one), `poolings` (those
    that requests may ask for) and `matryoshka` (true, or the dimensions that the model was trained to be cut to).

    Without such files: mean pooling, normalised, no other dimensions. Raises ValueError for a pooling there is not.
    """
    config = _json(model_dir / "config.json")
    pooling = arguments.get("pooling") or _declared_pooling(model_dir)
    poolings = tuple(dict.fromkeys([pooling, *arguments.get("poolings", ())]))
    if unknown := set(poolings) - set(POOLINGS):
        raise ValueError(f"pooling {', '.join(sorted(map(str, unknown)))}: use one of {', '.join(POOLINGS)}")
    modules = _json(model_dir / "modules.json")
    longest = _json(model_dir / "sentence_bert_config.json").get("max_seq_length")
    declared = config.get("matryoshka_dimensions") or bool(config.get("is_matryoshka", False))
    return Terms(
        max_tokens=int(longest or config["max_position_embeddings"]),
        dimensions=int(config["hidden_size"]),
        pooling=pooling,
        poolings=poolings,
        normalize=not modules or any(one["type"].endswith("Normalize") for one in modules),
        shorter=arguments.get("matryoshka", declared),
    )


def _declared_pooling(model_dir: Path) -> Pooling:
    pooling = _json(model_dir / "1_Pooling" / "config.json") or {"pooling_mode_mean_tokens": True}
    modes = [mode for key, mode in POOLING_MODES.items() if pooling.get(key)]
    if len(modes) != 1:
        raise ValueError(f"{model_dir / '1_Pooling'}: pooling must be one of {', '.join(POOLING_MODES)}")
    return modes[0]


class TransformersEmbedder:
    """`arguments`: `threads` (CPU threads), `max_batch_tokens` (padded tokens of one forward pass), `device`, and what
    `read_terms` reads.
    """

    def __init__(self, model_dir: Path, arguments: dict[str, Any]) -> None:
        locale.setlocale(locale.LC_ALL, "C.UTF-8")  # Triton's stub starts with C, on which torch's imports fail
        self._torch = import_module("torch")
        self._torch.set_num_threads(int(arguments.get("threads", 1)))
        self.terms = read_terms(model_dir, arguments)
        self._max_batch_tokens = int(arguments.get("max_batch_tokens", 16_384))
        self._device = arguments.get("device") or ("cuda" if self._torch.cuda.is_available() else "cpu")
        model = import_module("transformers").AutoModel.from_pretrained(
            model_dir, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
        self._model = model.eval().to(self._device)

    def embed(self, inputs: Sequence[Sequence[int]], pooling: Pooling) -> Vectors:
        vectors = np.empty((len(inputs), self.terms.dimensions), dtype=np.float32)
        for batch in batches([len(ids) for ids in inputs], self._max_batch_tokens):
            vectors[batch] = self._forward([inputs[index] for index in batch], pooling)
        return vectors

    def _forward(self, inputs: Sequence[Sequence[int]], pooling: Pooling) -> Vectors:
        torch = self._torch
        longest = max(map(len, inputs))
        ids = torch.zeros((len(inputs), longest), dtype=torch.long)
        mask = torch.zeros((len(inputs), longest), dtype=torch.long)
        for row, one in enumerate(inputs):
            ids[row, : len(one)] = torch.tensor(one, dtype=torch.long)
            mask[row, : len(one)] = 1
        with torch.inference_mode():
            ids, mask = ids.to(self._device), mask.to(self._device)
            hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
            vectors: Vectors = self._pool(hidden.float(), mask, pooling).cpu().numpy()
        return vectors

    def _pool(self, hidden: Any, mask: Any, pooling: Pooling) -> Any:
        """[n, tokens, d] → [n, d]; padding stands on the right."""
        if pooling == "cls":
            return hidden[:, 0]
        if pooling == "last":
            return hidden[self._torch.arange(len(hidden)), mask.sum(dim=1) - 1]
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def _json(file: Path) -> Any:
    return json.loads(file.read_text("utf-8")) if file.exists() else {}
