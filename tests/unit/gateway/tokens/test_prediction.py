"""How long answers are likely to get."""

import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.tokens.prediction import Predictor


def test_the_first_guess_is_the_settings() -> None:
    assert Predictor(512).expect("acme", "tiny", 4000) == 512


def test_never_more_than_the_client_allows() -> None:
    predictor = Predictor(512)
    assert predictor.expect("acme", "tiny", 10) == 10
    predictor.learn("acme", "tiny", 4000)
    assert predictor.expect("acme", "tiny", 10) == 10


def test_tenants_and_models_have_answers_of_their_own() -> None:
    predictor = Predictor(512)
    for _ in range(100):
        predictor.learn("acme", "tiny", 20)
    assert predictor.expect("acme", "tiny", 4000) < 30
    assert predictor.expect("acme", "large", 4000) == predictor.expect("other", "tiny", 4000) == 512


def test_about_nine_of_ten_answers_stay_below() -> None:
    for distribution in (
        lambda chance: chance.gauss(300, 60),
        lambda chance: chance.uniform(0, 500),
        lambda chance: chance.expovariate(1 / 200),
    ):
        chance, predictor, below = random.Random(1), Predictor(512), 0
        for _ in range(4000):
            tokens = max(1, round(distribution(chance)))
            below += tokens <= predictor.expect("acme", "tiny", 10_000)
            predictor.learn("acme", "tiny", tokens)
        assert 0.8 < below / 4000 < 0.97


def test_a_change_is_followed_within_some_dozens_of_answers() -> None:
    predictor = Predictor(512)
    for tokens in [2000] * 50 + [10] * 60:
        predictor.learn("acme", "tiny", tokens)
    assert predictor.expect("acme", "tiny", 4000) < 200


def test_the_pairs_not_heard_of_longest_are_forgotten() -> None:
    predictor = Predictor(512, most=2)
    for tenant in ("a", "b", "a", "c"):
        predictor.learn(tenant, "tiny", 1)
    known = [tenant for tenant in "abc" if predictor.expect(tenant, "tiny", 4000) != 512]
    assert known == ["a", "c"]


@given(st.lists(st.integers(0, 10**6), max_size=30), st.integers(1, 10**6))
def test_it_is_always_at_least_one_token_and_at_most_allowed(answers: list[int], most: int) -> None:
    predictor = Predictor(100)
    for tokens in answers:
        predictor.learn("acme", "tiny", tokens)
    assert 1 <= predictor.expect("acme", "tiny", most) <= most
