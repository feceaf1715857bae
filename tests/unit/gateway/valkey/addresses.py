"""The server that a client of redis-py speaks to, as an address."""

from redis.asyncio import Redis


def url_of(redis: Redis) -> str:
    given = redis.connection_pool.connection_kwargs
    return f"redis://{given['host']}:{given['port']}/{given.get('db', 0)}"
