"""Encoder models of the sentence-transformers layout, run by transformers in this process.

One process instead of a second engine's three: docs/adr/0004-embeddings-in-process.md.
"""

import json
import locale
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from python_backends.embedding.embedder import Vectors, batches

POOLING_MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True)
class ModelLayout:
    """What the files beside the weights say. `max_tokens`: per input, special tokens included."""

    pooling: str
    normalize: bool
    max_tokens: int

    @classmethod
    def read(cls, model_dir: Path) -> "ModelLayout":
        """Raises ValueError for a pooling that is not implemented. Without such files: mean pooling, normalised."""
        config = _json(model_dir / "config.json")
        pooling = _json(model_dir / "1_Pooling" / "config.json") or {"pooling_mode_mean_tokens": True}
        modes = [mode for key, mode in POOLING_MODES.items() if pooling.get(key)]
        if len(modes) != 1:
            raise ValueError(f"{model_dir / '1_Pooling'}: pooling must be one of {', '.join(POOLING_MODES)}")
        modules = _json(model_dir / "modules.json")
        longest = _json(model_dir / "sentence_bert_config.json").get("max_seq_length")
        return cls(
            pooling=modes[0],
            normalize=not modules or any(one["type"].endswith("Normalize") for one in modules),
            max_tokens=int(longest or config["max_position_embeddings"]),
        )


class TransformersEmbedder:
    """`arguments`: `threads` (CPU threads), `max_batch_tokens` (padded tokens of one forward pass), `device`."""

    def __init__(self, model_dir: Path, arguments: dict[str, Any]) -> None:
        locale.setlocale(locale.LC_ALL, "C.UTF-8")  # Triton's stub starts with C, on which torch's imports fail
        self._torch = import_module("torch")
        self._torch.set_num_threads(int(arguments.get("threads", 1)))
        self._layout = ModelLayout.read(model_dir)
        self._max_batch_tokens = int(arguments.get("max_batch_tokens", 16_384))
        self._device = arguments.get("device") or ("cuda" if self._torch.cuda.is_available() else "cpu")
        model = import_module("transformers").AutoModel.from_pretrained(
            model_dir, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
        self._model = model.eval().to(self._device)
        self.max_tokens = self._layout.max_tokens
        self.dimensions = int(self._model.config.hidden_size)

    def embed(self, inputs: Sequence[Sequence[int]]) -> Vectors:
        vectors = np.empty((len(inputs), self.dimensions), dtype=np.float32)
        for batch in batches([len(ids) for ids in inputs], self._max_batch_tokens):
            vectors[batch] = self._forward([inputs[index] for index in batch])
        return vectors

    def _forward(self, inputs: Sequence[Sequence[int]]) -> Vectors:
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
            pooled = self._pool(hidden.float(), mask)
            if self._layout.normalize:
                pooled = torch.nn.functional.normalize(pooled, dim=-1)
            vectors: Vectors = pooled.cpu().numpy()
        return vectors

    def _pool(self, hidden: Any, mask: Any) -> Any:
        """[n, tokens, d] → [n, d]; padding stands on the right."""
        if self._layout.pooling == "cls":
            return hidden[:, 0]
        if self._layout.pooling == "last":
            return hidden[self._torch.arange(len(hidden)), mask.sum(dim=1) - 1]
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def _json(file: Path) -> Any:
    return json.loads(file.read_text("utf-8")) if file.exists() else {}
