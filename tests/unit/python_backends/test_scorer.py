"""The scorer: what it says of texts, why, and how it is trained and judged."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from python_backends.preprocessing.errors import RequestError
from python_backends.routing.evaluation import evaluate, within_groups
from python_backends.routing.features import NAMES, features_of
from python_backends.routing.fitting import calibration, falling_curve, fit_logistic, folds_by_group, held_out_logits
from python_backends.routing.scorer import EVALUATION, Scorer, probability
from python_backends.routing.train import main, read_questions

SHIPPED = Path(__file__).resolve().parents[3] / "model_repository" / "route" / "1"


def feature(text: str, name: str) -> float:
    return float(features_of(text)[NAMES.index(name)])


def made(weights: list[float], bias: float = 0.0) -> Scorer:
    """One number of embedding; the rest are features."""
    filled = np.array(weights + [0.0] * (1 + len(NAMES) - len(weights)), dtype=np.float32)
    return Scorer("made", filled, np.zeros_like(filled), bias)


def test_features_count_what_they_are_named_for() -> None:
    assert feature("2 + 2 = 4?", "maths") == pytest.approx(np.log1p(2))
    assert feature("1,000 and 7", "numbers") == pytest.approx(np.log1p(2))
    assert feature("Why? How?", "questions") == pytest.approx(np.log1p(2))
    assert feature("def f(): return {}", "code") > feature("define the return of a fee", "code")
    assert feature("größer", "foreign") == pytest.approx(2 / 6)
    assert feature("Explain why", "reasoning") > feature("Who is it", "reasoning") == 0
    assert feature("It is not never", "negations") == pytest.approx(np.log1p(2))


@pytest.mark.parametrize("text", ["", "?", "🙂" * 50, "\n\n", "9" * 9000])
def test_every_text_has_finite_features(text: str) -> None:
    assert np.isfinite(features_of(text)).all()


def test_a_judgement_says_what_moved_it_most() -> None:
    features = np.zeros(len(NAMES), dtype=np.float32)
    features[NAMES.index("words")] = 2.0
    weights = [1.0, *(0.5 if name == "words" else 0.0 for name in NAMES)]
    judgement = made(weights, bias=-1.0).judge(np.array([[-3.0]], dtype=np.float32), features)
    assert judgement.score == pytest.approx(probability(-3.0 + 1.0 - 1.0))
    assert list(judgement.parts.items())[:2] == [("meaning", -3.0), ("words", 1.0)]


@pytest.mark.parametrize(("dimensions", "features"), [(2, len(NAMES)), (1, 3)])
def test_what_it_was_not_trained_for_is_refused_with_the_remedy(dimensions: int, features: int) -> None:
    with pytest.raises(RequestError, match="train it with this embedding model"):
        made([]).judge(np.zeros(dimensions), np.zeros(features))
    with pytest.raises(RequestError):
        made([]).judge(None, np.zeros(len(NAMES)))


def test_numbers_beyond_all_measure_still_give_a_probability() -> None:
    judgement = made([1e30]).judge(np.array([1e5], dtype=np.float32), np.zeros(len(NAMES), dtype=np.float32))
    assert 0 <= judgement.score <= 1


def test_the_shipped_weights_give_the_shipped_evaluation_its_meaning() -> None:
    """An average text scores near the share that the weaker model got wrong; the weights do not grow out of measure."""
    scorer, report = Scorer.load(SHIPPED), json.loads((SHIPPED / EVALUATION).read_text("utf-8"))
    average = scorer.judge(scorer.average[: scorer.dimensions], scorer.average[scorer.dimensions :])
    assert scorer.dimensions == 384
    assert average.score == pytest.approx(1 - report["correct"]["small"], abs=0.03)
    assert np.abs(scorer.weights).max() < 20
    assert report["held_out"]["apgr"] > report["by_length"]["apgr"] > 0.5


def test_weights_that_were_trained_for_other_features_do_not_load(tmp_path: Path) -> None:
    (tmp_path / EVALUATION).write_text('{"scorer": "x"}')
    short = np.zeros(3, dtype=np.float32)
    Scorer("x", short, short, 0.0).save(tmp_path)
    with pytest.raises(ValueError, match="not trained for these"):
        Scorer.load(tmp_path)


def test_a_fit_finds_what_made_the_data_and_a_penalty_holds_it_back() -> None:
    chance = np.random.default_rng(0)
    inputs = chance.standard_normal((4000, 2))
    wrong = (chance.random(4000) < 1 / (1 + np.exp(-(1.5 * inputs[:, 0] - 0.5)))).astype(float)
    free = fit_logistic(inputs, wrong, np.zeros(2))
    assert free.weights == pytest.approx([1.5, 0.0], abs=0.15)
    assert np.abs(fit_logistic(inputs, wrong, np.full(2, 1e5)).weights).max() < 0.1


def test_an_input_that_hardly_ever_differs_counts_for_little() -> None:
    inputs = np.hstack([np.random.default_rng(0).standard_normal((200, 3)), np.zeros((200, 1))])
    inputs[0, 3] = 1e-8
    fitted = fit_logistic(inputs, (inputs[:, 0] > 0).astype(float), np.ones(4))
    assert abs(fitted.weights[3]) < 1


def test_a_group_is_never_on_both_sides() -> None:
    groups = [f"g{number % 7}" for number in range(100)]
    fold = folds_by_group(groups, 3, seed=1)
    assert {
        group: len({int(fold[row]) for row in range(100) if groups[row] == group}) for group in groups
    } == dict.fromkeys(groups, 1)
    assert np.bincount(fold).min() >= 20


def test_held_out_logits_know_nothing_of_the_held_out() -> None:
    """What is true of one group only cannot be known of it."""
    inputs = np.eye(4).repeat(25, axis=0)
    wrong = np.array([1.0] * 25 + [0.0] * 75)
    logits = held_out_logits(inputs, wrong, np.ones(4), np.arange(4).repeat(25))
    assert logits[:25].mean() <= logits[25:].mean()


def test_calibration_makes_logits_honest() -> None:
    chance = np.random.default_rng(0)
    logits = chance.standard_normal(5000) * 4
    wrong = (chance.random(5000) < 1 / (1 + np.exp(-(0.25 * logits + 0.5)))).astype(float)
    slope, offset = calibration(logits, wrong)
    assert (slope, offset) == (pytest.approx(0.25, abs=0.05), pytest.approx(0.5, abs=0.1))


def test_a_curve_never_rises() -> None:
    scores = np.linspace(0, 1, 100)
    correct = (np.arange(100) % 10 < 5).astype(float)
    correct[:10], correct[40:50] = 0.0, 1.0
    shares = [share for _, share in falling_curve(scores, correct, 10)]
    assert shares == sorted(shares, reverse=True)


def test_a_perfect_score_and_a_useless_one() -> None:
    weak, strong = np.array([0.0] * 20 + [1.0] * 80), np.ones(100)
    perfect = evaluate(1 - weak, weak, strong)
    assert (perfect.auc, perfect.half, perfect.most) == (1.0, 0.1, 0.16)
    assert perfect.apgr == pytest.approx(0.9, abs=0.01)
    useless = evaluate(np.zeros(10_000), np.tile(weak, 100), np.ones(10_000))
    assert useless.apgr == pytest.approx(0.5, abs=0.02)


def test_what_scores_the_same_tells_nothing_in_whatever_order_it_stands() -> None:
    weak = np.array([1.0] * 30 + [0.0] * 70)
    assert evaluate(np.zeros(100), weak, np.ones(100)).auc == 0.5
    assert evaluate(np.zeros(100), weak[::-1], np.ones(100)).auc == 0.5
    assert within_groups(np.zeros(100), weak, ["one"] * 100) == 0.5


def test_knowing_the_group_is_no_knowledge_within_it() -> None:
    groups = ["easy"] * 50 + ["hard"] * 50
    weak = np.array(([1.0] * 40 + [0.0] * 10) + ([0.0] * 40 + [1.0] * 10))
    by_group = np.array([0.0] * 50 + [1.0] * 50) + np.tile([0.0, 0.1], 50)
    assert evaluate(by_group, weak, np.ones(100)).auc > 0.7
    assert within_groups(by_group, weak, groups) == pytest.approx(0.5, abs=0.05)


def test_training_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {
            "subject": f"s{n // 10}",
            "prompt": f"{'Prove' if n % 3 else 'Name'} {n}",
            "a_correct": int(n % 3 == 0),
            "b_correct": 1,
        }
        for n in range(120)
    ]
    file = tmp_path / "questions.csv"
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    np.savez(tmp_path / "cache.npz", embeddings=np.random.default_rng(0).standard_normal((120, 4)))
    options = ["--cache", str(tmp_path / "cache.npz"), "--embedding-model", str(tmp_path), "--name", "mine"]
    main([str(file), *options, "--out", str(tmp_path / "out")])
    report = json.loads(capsys.readouterr().out)
    assert report["correct"] == {"a": pytest.approx(1 / 3, abs=0.01), "b": 1.0}
    scorer = Scorer.load(tmp_path / "out")
    assert (
        scorer.judge(np.zeros(4), features_of("Prove 1")).score > scorer.judge(np.zeros(4), features_of("Name 3")).score
    )


def test_a_file_without_its_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("subject,prompt,a_correct\nx,y,1\n")
    with pytest.raises(ValueError, match="two or more"):
        read_questions(tmp_path / "q.csv")
