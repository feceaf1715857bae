"""What sentence-transformers itself makes of some texts with the embedding model that is served: once, for a file.

In an environment of its own, since nothing here needs that library (scikit-learn comes with it):

    python -m venv /tmp/st && /tmp/st/bin/pip install sentence-transformers==6.2.0 transformers==5.19.0 torch==2.13.0
    /tmp/st/bin/python tests/data/make_minilm_reference.py .trireme/models/all-minilm-l6-v2

tests/e2e/test_embeddings.py compares. Vectors are little-endian float32 in base64: pooled as the model's own files say
of all texts, and in the other ways of the first few.
"""

import base64
import hashlib
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

FEW = 4
POOLINGS = {"cls": "cls", "last": "lasttoken"}
TEXTS = [
    "short",
    "A rather longer sentence about three banks of oars, and the sea.",
    " ",
    ".",
    "naïve größe 🛶 — Ελλάδα, Россия, 日本の船, שלום, e\u0301 and é",
    "WHERE IS\tTHE\n\nHARBOUR?!",
    "def row(banks: int) -> list[str]:\n    return [f'oar {n}' for n in range(banks)]  # O(n)\n",
    '{"ship": {"oars": 170, "crew": [1.5e3, null, true]}, "url": "https://example.com/?q=a%20b#c"}',
    "3.14159 2,718 -42 1e-9 0x7f 2026-06-01T12:00:00Z €19,99",
    "antidisestablishmentarianism" * 8,
    "ship " * 254,
    "the sea and the ships " * 100,
    " ".join(f"{number} ships of the line sailed, {number * 37 % 101} came back." for number in range(60)),
    "<|im_start|> [CLS] [SEP] [MASK] are words here",
]


def main(model: Path) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.set_num_threads(1)
    encoder = SentenceTransformer(str(model), device="cpu")
    vectors = {"mean": packed(encoder, TEXTS)}
    for name, mode in POOLINGS.items():
        pooling = Pooling(encoder.get_embedding_dimension(), pooling_mode=mode)
        vectors[name] = packed(SentenceTransformer(modules=[encoder[0], pooling], device="cpu"), TEXTS[:FEW])
    reference = {
        "model": model.name,
        "weights_sha256": hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest(),
        "made_by": {name: version(name) for name in ("sentence-transformers", "transformers", "torch")},
        "texts": TEXTS,
        "vectors": vectors,
    }
    target = Path(__file__).with_name("minilm_sentence_transformers.json")
    target.write_text(json.dumps(reference, ensure_ascii=False, indent=1) + "\n", "utf-8")


def packed(encoder: Any, texts: Sequence[str]) -> list[str]:
    """One text at a time, so that none is padded."""
    vectors = [encoder.encode(text, normalize_embeddings=True) for text in texts]
    return [base64.b64encode(one.astype("<f4").tobytes()).decode() for one in vectors]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
