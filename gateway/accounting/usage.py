"""What was used, summed by tenant, key, model or day."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal, get_args

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.accounting.sums import Group, read_field, usage_key
from gateway.errors import Unavailable

By = Literal["tenant", "key", "model", "day"]
BYS: Final[tuple[By, ...]] = get_args(By)
MOST_DAYS: Final = 400


@dataclass(frozen=True, slots=True)
class UsageRow:
    """`name`: of the tenant, key or model, or the day. `price`: 10⁻⁹ of the currency. `cached` is part of `prompt`.

    `hits`: requests that the cache answered; `spared`, `spared_price`: the tokens that it did without, and their price.
    """

    name: str
    requests: int = 0
    succeeded: int = 0
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    price: int = 0
    hits: int = 0
    spared: int = 0
    spared_price: int = 0


class UsageReader:
    """Days are in UTC; a request belongs to the day in which it ended."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def read(self, by: By, since: date, until: date, tenant: str | None = None) -> list[UsageRow]:
        """Both days included, at most `MOST_DAYS`; sorted by name. Raises Unavailable."""
        days = [since + timedelta(number) for number in range((until - since).days + 1)]
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for day in days:
                    pipe.hgetall(usage_key(day))
                found: list[Mapping[bytes, bytes]] = await pipe.execute()
        except (RedisError, TimeoutError, OSError) as error:
            raise Unavailable("the ledger cannot be read now: Valkey does not answer") from error
        sums = {day: fields for day, fields in zip(days, found, strict=True) if fields}
        return _rows(by, sums, tenant)


def today() -> date:
    return datetime.now(UTC).date()


def _rows(by: By, sums: Mapping[date, Mapping[bytes, bytes]], tenant: str | None) -> list[UsageRow]:
    totals: dict[str, dict[str, int]] = {}
    for name, measure, value in _values(by, sums, tenant):
        row = totals.setdefault(name, {})
        row[measure] = row.get(measure, 0) + value
    return [UsageRow(name, **row) for name, row in sorted(totals.items())]


def _values(by: By, sums: Mapping[date, Mapping[bytes, bytes]], tenant: str | None) -> Iterator[tuple[str, str, int]]:
    """Row, measure, what belongs to it."""
    for day, fields in sums.items():
        for field, value in fields.items():
            group, measure = read_field(field)
            if tenant is not None and group.tenant != tenant:
                continue
            name = _name(by, group, day)
            yield name, measure, int(value)
            if group.ok and measure == "requests":
                yield name, "succeeded", int(value)


def _name(by: By, group: Group, day: date) -> str:
    match by:
        case "tenant":
            return group.tenant
        case "key":
            return group.key
        case "model":
            return group.model
        case "day":
            return day.isoformat()


HEADER: Final = (
    "requests", "succeeded", "prompt_tokens", "cached_tokens", "completion_tokens", "price", "currency",
    "cache_hits", "spared_tokens", "spared_price",
)  # fmt: skip


def as_csv(by: By, rows: Iterable[UsageRow], currency: str) -> str:
    """RFC 4180, with a header."""
    lines = [",".join((by, *HEADER))]
    for row in rows:
        used = (row.requests, row.succeeded, row.prompt, row.cached, row.completion, decimal(row.price), currency)
        spared = (row.hits, row.spared, decimal(row.spared_price))
        lines.append(",".join((_quoted(row.name), *map(str, used + spared))))
    return "\r\n".join(lines) + "\r\n"


def decimal(nano: int) -> str:
    """Exactly, without trailing zeros."""
    whole, rest = divmod(nano, 1_000_000_000)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")


def _quoted(text: str) -> str:
    """Spreadsheets take a cell that begins with one of these for a formula."""
    safe = f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
    return '"{}"'.format(safe.replace('"', '""')) if any(mark in safe for mark in ',"\r\n') else safe
