"""What tokens cost. Sums are exact: integers from the settings to the ledger."""

from dataclasses import dataclass

from gateway.accounting.settings import AccountingSettings, ModelPrice
from gateway.core.call import Call, Model, Usage

NANO = 1_000_000_000
# A price per million tokens, in units of one token: 10⁻¹² of the currency, so that 0.000001 per million is exact.
_PICO_PER_TOKEN = 1_000_000
_PICO_PER_NANO = 1000


@dataclass(frozen=True, slots=True)
class _Rates:
    """10⁻¹² of the currency for a token."""

    prompt: int
    cached: int
    completion: int

    @classmethod
    def of(cls, price: ModelPrice) -> "_Rates":
        cached = price.prompt if price.cached is None else price.cached
        return cls(*(round(one * _PICO_PER_TOKEN) for one in (price.prompt, cached, price.completion)))


class Prices:
    """`cached` tokens are part of the prompt's, and have a price of their own. Halves of 10⁻⁹ are rounded up."""

    def __init__(self, settings: AccountingSettings) -> None:
        usual = ModelPrice(
            prompt=settings.prompt_price, cached=settings.cached_price, completion=settings.completion_price
        )
        self._usual = _Rates.of(usual)
        self._rates = {model: _Rates.of(price) for model, price in (settings.model_prices or {}).items()}

    def price(self, model: Model, prompt: int, completion: int, cached: int) -> int:
        """10⁻⁹ of the currency. An adapter without a price of its own has its base's."""
        rates = self._rates.get(model.name) or self._rates.get(model.base, self._usual)
        pico = (prompt - cached) * rates.prompt + cached * rates.cached + completion * rates.completion
        return (pico + _PICO_PER_NANO // 2) // _PICO_PER_NANO

    def of(self, call: Call) -> int:
        """Of what the call has used so far, in 10⁻⁹ of the currency."""
        return self._of(call, call.usage)

    def spared(self, call: Call) -> int:
        """What its answer would have cost beyond that, in 10⁻⁹ of the currency."""
        return 0 if call.spared is None else max(0, self._of(call, call.spared) - self.of(call))

    def _of(self, call: Call, usage: Usage) -> int:
        if call.model is None:
            return 0
        return self.price(call.model, usage.prompt, usage.completion, usage.cached)
