"""What the gateway remembers of strangers, in bounded tables: secrets that were wrong, and who sent many of them."""

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from gateway.errors import TooManyFailures

Value = TypeVar("Value")

SECONDS_PER_MINUTE = 60
IPV6_SITE = 64
ROUNDING_S = 1e-6


class Recent(Generic[Value]):
    """Values by name until their time (of `clock`) has come; the least recently put leave when there are too many."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._values: OrderedDict[str, tuple[float, Value]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, name: str) -> Value | None:
        found = self._values.get(name)
        return found[1] if found is not None and self._clock() < found[0] else None

    def put(self, name: str, value: Value, until: float) -> None:
        self._values[name] = (until, value)
        self._values.move_to_end(name)
        if len(self._values) > self._most:
            self._values.popitem(last=False)

    def clear(self) -> None:
        self._values.clear()


class Failures:
    """So many wrong keys a minute from one address, all at once if it likes: a bucket that fills again evenly.

    `clock`: monotonic seconds. Addresses of one IPv6 site (/64) count as one. An address that leaves the table begins
    anew, which takes an attacker `addresses` others.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float], addresses: int = 4096) -> None:
        self._most = per_minute
        self._clock = clock
        self._addresses = addresses
        # The time at which the bucket of an address is full again: the further ahead, the emptier it is.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def check(self, address: str | None) -> None:
        """Raises TooManyFailures, with the exact time until the next attempt."""
        if not self._most or address is None:
            return
        interval = SECONDS_PER_MINUTE / self._most
        wait = self._full_at.get(_site(address), 0.0) - self._clock() - (SECONDS_PER_MINUTE - interval)
        if wait > ROUNDING_S:
            raise TooManyFailures("too many wrong API keys came from your address: try again later", retry_after=wait)

    def count(self, address: str | None) -> None:
        if not self._most or address is None:
            return
        site, now = _site(address), self._clock()
        self._full_at[site] = max(self._full_at.get(site, now), now) + SECONDS_PER_MINUTE / self._most
        self._full_at.move_to_end(site)
        if len(self._full_at) > self._addresses:
            self._full_at.popitem(last=False)


def _site(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(ipaddress.ip_network((parsed, IPV6_SITE), strict=False))
