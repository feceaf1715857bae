"""Every request is closed once, however it ended, and told to everybody who counts."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from gateway.accounting.lines import write_line
from gateway.accounting.outcome import Outcome, outcome_of
from gateway.core.call import Call


class Sink(Protocol):
    def record(self, call: Call, outcome: Outcome, seconds: float) -> None:
        """Never raises, never waits: it also runs while a request is being cancelled."""
        ...


class Pricing(Protocol):
    def of(self, call: Call) -> int:
        """10⁻⁹ of the currency."""
        ...

    def spared(self, call: Call) -> int:
        """What it did not cost, since its answer was there already."""
        ...


class Ledger:
    """Writes each call down once, the first time that it is closed: a line in the log, then `sinks`."""

    def __init__(self, prices: Pricing, sinks: Sequence[Sink], level: int = logging.INFO) -> None:
        self._prices = prices
        self._sinks = tuple(sinks)
        self._level = level

    @contextmanager
    def entry(self, call: Call) -> Iterator[None]:
        """The call's entry is written when this is left."""
        try:
            yield
        except BaseException as error:  # cancellations too: every ending is written down, then goes on its way
            self.close(call, outcome_of(error), self._level)
            raise
        self.close(call, outcome_of(None), self._level)

    def close(self, call: Call, outcome: Outcome, level: int = logging.INFO) -> None:
        """Never raises, never waits: it also runs while a request is being cancelled."""
        if call.closed:
            return
        call.closed = True
        call.price, call.spared_price = self._prices.of(call), self._prices.spared(call)
        seconds = time.monotonic() - call.started
        write_line(call, outcome, seconds, level)
        for sink in self._sinks:
            sink.record(call, outcome, seconds)
