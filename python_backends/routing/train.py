"""Train the scorer: `python -m python_backends.routing.train QUESTIONS.csv --embedding-model DIR --out DIR`.

The CSV (or .csv.gz) has a row for each question: `subject`, `prompt`, and for two or more models a column
`<model>_correct`, 0 or 1; the first of them is the weaker model, the last the stronger one. What is written: the
weights (`scorer.npz`) and what is known of them (`scorer.json`): the evaluation on subjects that were held out, and the
quality curve of each model, to be copied into a router's settings.
"""

import argparse
import csv
import gzip
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from python_backends.embedding.embedder import finished
from python_backends.messages import EmbeddingOptions
from python_backends.preprocessing.question import MOST_CHARACTERS
from python_backends.preprocessing.tokenizer import TextTokenizer
from python_backends.preprocessing.truncation import Frame, truncated
from python_backends.routing.evaluation import Quality, evaluate, within_groups
from python_backends.routing.features import NAMES, features_of
from python_backends.routing.fitting import (
    Array,
    calibration,
    falling_curve,
    fit_logistic,
    folds_by_group,
    held_out_logits,
)
from python_backends.routing.scorer import EVALUATION, Scorer

FOLDS = 10
SEEDS = (0, 1, 2)
CURVE_POINTS = 10
# Chosen on the held-out subjects of the reference data; see docs/model-routing.md.
MEANING_PENALTY = 1000.0
FEATURES_PENALTY = 1000.0
_COLUMN = "_correct"
_PAIR = 2
_BATCH = 256


@dataclass(frozen=True, eq=False)
class Questions:
    """`correct`: by model, the weaker one first."""

    subjects: list[str]
    texts: list[str]
    correct: dict[str, Array]

    @property
    def weak(self) -> Array:
        return next(iter(self.correct.values()))

    @property
    def strong(self) -> Array:
        return list(self.correct.values())[-1]


def read_questions(file: Path) -> Questions:
    """Raises ValueError for columns that are missing."""
    data = file.read_bytes()
    text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    models = [name.removesuffix(_COLUMN) for name in reader.fieldnames or () if name.endswith(_COLUMN)]
    rows = list(reader)
    if len(models) < _PAIR or not {"subject", "prompt"} <= set(reader.fieldnames or ()):
        raise ValueError(f"{file} needs the columns subject, prompt and two or more <model>{_COLUMN}")
    correct = {model: np.array([float(row[model + _COLUMN]) for row in rows]) for model in models}
    return Questions([row["subject"] for row in rows], [row["prompt"] for row in rows], correct)


def read_inputs(questions: Questions, embedding_model: Path, cache: Path | None) -> Array:
    """[n, dimensions + features], as the Triton models `embed` and `route` see them. `cache`: of the embeddings."""
    if cache is not None and cache.is_file():
        with np.load(cache, allow_pickle=False) as file:
            embeddings = file["embeddings"]
    else:
        embeddings = _embed(questions.texts, embedding_model)
        if cache is not None:
            np.savez(cache, embeddings=embeddings)
    features = np.stack([features_of(text[:MOST_CHARACTERS]) for text in questions.texts])
    return np.hstack([embeddings, features]).astype(np.float64)


def _embed(texts: Sequence[str], model_dir: Path) -> Any:
    from python_backends.embedding.transformers_embedder import TransformersEmbedder

    embedder = TransformersEmbedder(model_dir, {})
    tokenizer, terms = TextTokenizer.from_dir(model_dir), embedder.terms
    frame = Frame.of(tokenizer)
    ids = [truncated(one, terms.max_tokens, "end", frame) for one in tokenizer.encode_many([*texts])]
    found = [embedder.embed(ids[at : at + _BATCH], terms.pooling) for at in range(0, len(ids), _BATCH)]
    return finished(np.concatenate(found), terms, EmbeddingOptions())


def train(questions: Questions, inputs: Array, name: str) -> tuple[Scorer, dict[str, Any]]:
    """The scorer, fitted to everything, and its evaluation, each question scored by a model that saw nothing of its
    subject.
    """
    wrong, dimensions = 1 - questions.weak, inputs.shape[1] - len(NAMES)
    penalties = np.repeat([MEANING_PENALTY, FEATURES_PENALTY], [dimensions, len(NAMES)])
    held_out = [
        held_out_logits(inputs, wrong, penalties, folds_by_group(questions.subjects, FOLDS, seed)) for seed in SEEDS
    ]
    slope, offset = calibration(np.concatenate(held_out), np.tile(wrong, len(SEEDS)))
    whole = fit_logistic(inputs, wrong, penalties)
    weights, average = (whole.weights * slope).astype(np.float32), whole.average.astype(np.float32)
    scorer = Scorer(name, weights, average, slope * whole.bias + offset)
    chances = [1 / (1 + np.exp(-(slope * logits + offset))) for logits in held_out]
    return scorer, {"scorer": name, **_report(questions, chances, inputs[:, dimensions])}


def _report(questions: Questions, chances: list[Array], lengths: Array) -> dict[str, Any]:
    weak, strong = questions.weak, questions.strong
    found = [evaluate(one, weak, strong) for one in chances]
    spread = np.concatenate(chances)
    inside = [within_groups(one, weak, questions.subjects) for one in chances]
    return {
        "questions": len(weak),
        "subjects": len(set(questions.subjects)),
        "folds": f"{FOLDS} by subject, {len(SEEDS)} divisions",
        "correct": {model: round(float(right.mean()), 4) for model, right in questions.correct.items()},
        "held_out": _mean(found) | {"auc_within_subjects": round(float(np.mean(inside)), 4)},
        "by_length": asdict(evaluate(lengths, weak, strong)),
        "random": asdict(Quality(0.5, 0.5, 0.8, 0.5)),
        "known_subjects": asdict(evaluate(_subject_gaps(questions), weak, strong)),
        "curves": {
            model: falling_curve(spread, np.tile(right, len(chances)), CURVE_POINTS)
            for model, right in questions.correct.items()
        },
        "quantiles": [round(float(np.quantile(spread, share)), 4) for share in np.linspace(0, 1, 21)],
    }


def _mean(found: list[Quality]) -> dict[str, float]:
    return {name: round(float(np.mean([asdict(one)[name] for one in found])), 4) for name in asdict(found[0])}


def _subject_gaps(questions: Questions) -> Array:
    """What somebody would score who knows each subject's average gap and nothing of the question: for comparison."""
    names, gaps = np.array(questions.subjects), questions.strong - questions.weak
    average = {name: float(gaps[names == name].mean()) for name in np.unique(names)}
    return np.array([average[name] for name in questions.subjects])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m python_backends.routing.train", description="Train the scorer.")
    parser.add_argument("questions", type=Path)
    parser.add_argument(
        "--embedding-model", type=Path, required=True, help="directory of the model that `embed` serves"
    )
    parser.add_argument("--out", type=Path, help="where scorer.npz and scorer.json go; nowhere when left out")
    parser.add_argument("--cache", type=Path, help="an .npz that keeps the embeddings between runs")
    parser.add_argument("--name", default="custom-1", help="what decisions call this scorer")
    given = parser.parse_args(arguments)
    questions = read_questions(given.questions)
    scorer, report = train(questions, read_inputs(questions, given.embedding_model, given.cache), given.name)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        scorer.save(given.out)
        (given.out / EVALUATION).write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
