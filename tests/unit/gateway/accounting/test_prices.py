"""Prices: exact integers."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.accounting.prices import Prices
from gateway.accounting.settings import AccountingSettings, ModelPrice
from gateway.core.call import AdapterRef, Model
from tests.unit.gateway.accounting.making import new_call

TINY, BIG = Model("tiny", "generate", 256, 0), Model("big", "generate", 256, 0)
COUNTS = st.integers(0, 10_000_000)
# Six decimals: a millionth of the currency for a million tokens.
MICROS = st.integers(0, 10**9)


def test_nothing_costs_anything_until_prices_are_set() -> None:
    assert Prices(AccountingSettings()).price(TINY, 1000, 1000, 500) == 0


def test_cached_tokens_cost_what_the_others_do_unless_they_have_a_price() -> None:
    assert Prices(AccountingSettings(prompt_price=2.0)).price(TINY, 10, 0, 4) == 20_000
    assert Prices(AccountingSettings(prompt_price=2.0, cached_price=0.0)).price(TINY, 10, 0, 4) == 12_000


def test_a_model_can_have_prices_of_its_own() -> None:
    prices = Prices(
        AccountingSettings(prompt_price=1.0, completion_price=1.0, model_prices={"big": ModelPrice(completion=30.0)})
    )
    assert prices.price(BIG, 100, 2, 0) == 60_000
    assert prices.price(TINY, 100, 2, 0) == 102_000


def test_an_adapter_costs_what_its_base_does_unless_it_has_a_price() -> None:
    adapters = [
        Model(name, "generate", 256, 0, adapter=AdapterRef(name, "1", "big", f"{name}/1", "sha256:0"))
        for name in ("cheap", "usual")
    ]
    own = {"big": ModelPrice(prompt=30.0), "cheap": ModelPrice(prompt=5.0)}
    prices = Prices(AccountingSettings(prompt_price=1.0, model_prices=own))
    assert [prices.price(model, 100, 0, 0) for model in adapters] == [500_000, 3_000_000]


def test_a_request_that_reached_no_model_costs_nothing() -> None:
    assert Prices(AccountingSettings(prompt_price=1.0)).of(new_call(model=None)) == 0


@given(st.tuples(MICROS, MICROS, MICROS), COUNTS, COUNTS, st.data())
def test_a_price_is_the_exact_one_rounded_to_the_nearest_billionth(
    micros: tuple[int, int, int], prompt: int, completion: int, data: st.DataObject
) -> None:
    cached = data.draw(st.integers(0, prompt))
    prompt_price, cached_price, completion_price = micros
    settings = AccountingSettings(
        prompt_price=prompt_price / 10**6, cached_price=cached_price / 10**6, completion_price=completion_price / 10**6
    )
    exact = Fraction((prompt - cached) * prompt_price + cached * cached_price + completion * completion_price, 1000)
    found = Prices(settings).price(TINY, prompt, completion, cached)
    assert abs(found - exact) <= Fraction(1, 2)


@pytest.mark.parametrize(("completion", "nano"), [(1, 1), (3, 2), (2, 1)])
def test_halves_are_rounded_up(completion: int, nano: int) -> None:
    """Half a billionth for a token."""
    assert Prices(AccountingSettings(completion_price=0.0005)).price(TINY, 0, completion, 0) == nano
