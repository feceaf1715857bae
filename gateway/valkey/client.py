"""The library's client, for what no request waits for: keys, revocations, usage, the routing document."""

from typing import cast

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def client(url: str, *, cluster: bool, connections: int, timeout_s: float) -> Redis:
    """Close it after use. `timeout_s`: for a connection, free or new.

    With a socket_timeout redis-py uses asyncio.wait_for, which before Python 3.12 swallows cancellations.
    """
    retry = Retry(NoBackoff(), 1)
    if cluster:
        made = RedisCluster.from_url(
            url, max_connections=connections, socket_timeout=None, socket_connect_timeout=timeout_s, retry=retry
        )
        return cast(Redis, made)  # no relative of it by type, but by every method that is used here
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout_s,
        socket_timeout=None,
        socket_connect_timeout=timeout_s,
        retry=retry,
    )
    return Redis.from_pool(pool)
