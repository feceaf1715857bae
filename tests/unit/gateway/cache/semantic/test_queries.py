"""What a server that searches is asked, word by word, and what is believed of its answer."""

from typing import Any

import hiredis
import numpy as np
import pytest

from gateway.cache.keys import questions_of
from gateway.cache.semantic.nearest import NEAREST
from gateway.cache.semantic.queries import OFFERED, create_command, is_offered, nearest_in, search_command
from gateway.cache.semantic.question import Question, owner_tag
from tests.support.search_server import Arguments, Refused, Schema, parse_create, parse_search

ASKED = Question("Why?", "p0a")
VECTOR = np.array([1.0, 0.0, -2.0], dtype=np.float32)
BYTES = b"\x00\x00\x80?\x00\x00\x00\x00\x00\x00\x00\xc0"
OWN = owner_tag("acme")
KEY = f"{questions_of('acme')}tiny@1:abc".encode()
FIELDS = {"distance": "0.05", "owner": OWN, "partition": "p0a", "text": "Why not?", "until": "7.000"}


def words(command: tuple[Any, ...]) -> list[bytes]:
    """As they go over the wire."""
    reader = hiredis.Reader()
    reader.feed(hiredis.pack_command(command))
    said: list[bytes] = reader.gets()
    return said


def hit(key: bytes = KEY, **changes: str | None) -> list[Any]:
    told = {**FIELDS, **changes}
    return [key, [part.encode() for name, value in told.items() if value is not None for part in (name, value)]]


def test_an_index_is_made_of_hashes_under_one_prefix() -> None:
    assert words(create_command(384)) == (
        b"FT.CREATE trireme:questions:1:384 ON HASH PREFIX 1 trireme:question: SCHEMA owner TAG partition TAG "
        b"vector VECTOR FLAT 6 TYPE FLOAT32 DIM 384 DISTANCE_METRIC COSINE"
    ).split(b" ")


def test_a_search_names_its_owner_and_its_partition() -> None:
    query = f"(@owner:{{{OWN}}} @partition:{{p0a}})=>[KNN 32 @vector $asked AS distance]".encode()
    options = b"RETURN 5 distance owner partition text until LIMIT 0 32 TIMEOUT 50 DIALECT 2".split(b" ")
    said = words(search_command("acme", ASKED, VECTOR, 50))
    assert said == [b"FT.SEARCH", b"trireme:questions:1:3", query, b"PARAMS", b"2", b"asked", BYTES, *options]


@pytest.mark.parametrize("partition", ["", "*", "p|q", "p} @owner:{x", "p q", "pé"])
def test_a_partition_that_could_be_read_as_a_query_is_none(partition: str) -> None:
    with pytest.raises(ValueError, match="no name of a partition"):
        search_command("acme", Question("Why?", partition), VECTOR, 50)


def test_whether_a_search_is_offered() -> None:
    assert words(OFFERED) == [b"COMMAND", b"INFO", b"FT.SEARCH"]
    wrong = ([None], [[]], [], None, [[b"ft.search"]], hiredis.ReplyError("NOPERM"))
    assert not any(is_offered(answer, cluster=False) for answer in wrong)


@pytest.mark.parametrize(("first_key", "in_a_cluster"), [(0, True), (1, False)])
def test_in_a_cluster_only_a_search_of_all_nodes_is_one(first_key: int, in_a_cluster: bool) -> None:
    answer = [[b"ft.search", -3, [], first_key, first_key, 0]]
    assert (is_offered(answer, cluster=False), is_offered(answer, cluster=True)) == (True, in_a_cluster)


def test_what_was_found_is_sorted_by_how_near_it_is() -> None:
    keys = [KEY + b"%d" % number for number in range(3)]
    answer = [3, *hit(keys[0], distance="0.2"), *hit(keys[1], distance="-1e-7"), *hit(keys[2], distance="0.1")]
    found = nearest_in(answer, "acme", ASKED, 0.8)
    assert [near.entry.name for near in found] == ["tiny@1:abc1", "tiny@1:abc2", "tiny@1:abc0"]
    assert [near.similarity for near in found] == [1.0, 0.9, 0.8]
    first = found[0].entry
    assert (first.owner, first.question, first.until) == ("acme", Question("Why not?", "p0a"), 7.0)
    assert [near.entry.name for near in nearest_in(answer, "acme", ASKED, 0.91)] == ["tiny@1:abc1"]


@pytest.mark.parametrize(
    "wrong",
    [
        hit(owner=owner_tag("other")),
        hit(partition="p0b"),
        hit(f"{questions_of('other')}tiny@1:abc".encode()),
        hit(b"abc"),
        hit(owner=None),
        hit(distance="nan"),
        hit(distance="-1"),
        hit(distance="near"),
        hit(until=None),
        [KEY, [b"distance"]],
        [7, FIELDS],
    ],
    ids=["owner", "partition", "key", "no key", "nobody", "nan", "too near", "word", "until", "odd", "number"],
)
def test_what_is_not_of_this_partition_or_makes_no_sense_is_left_out(wrong: list[Any]) -> None:
    found = nearest_in([2, *wrong, *hit()], "acme", ASKED, 0.9)
    assert [near.entry.name for near in found] == ["tiny@1:abc"]


def test_what_has_gone_meanwhile_is_left_out_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    assert [near.entry.name for near in nearest_in([2, KEY, None, *hit()], "acme", ASKED, 0.9)] == ["tiny@1:abc"]
    assert caplog.text == ""


@pytest.mark.parametrize("answer", [[0], [], None, b"OK", 3, {b"results": []}])
def test_an_answer_without_hits_has_none(answer: Any) -> None:
    assert nearest_in(answer, "acme", ASKED, 0.9) == []


@pytest.fixture
def schemas() -> dict[str, Schema]:
    """After the order to index vectors of three dimensions."""
    return dict([parse_create(Arguments(words(create_command(3))[1:]))])


def test_the_stand_in_takes_exactly_these(schemas: dict[str, Schema]) -> None:
    _, search = parse_search(Arguments(words(search_command("acme", ASKED, VECTOR, 50))[1:]), schemas)
    assert (search.tags, search.k, search.limit) == ((("owner", OWN), ("partition", "p0a")), NEAREST, NEAREST)
    assert search.vector.tobytes() == BYTES


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b"trireme:questions:1:3", b"trireme:questions:1:4"),
        (b"DIALECT", b"DIALEKT"),
        (b"2", b"3"),
        (b"asked", b"other"),
        (BYTES, BYTES + b"\x00" * 4),
        (b"TIMEOUT", b"SORTBY"),
        (b"50", b"0"),
    ],
    ids=["index", "option", "dialect", "parameter", "vector", "sorting", "no time"],
)
def test_the_stand_in_refuses_what_servers_refuse(schemas: dict[str, Schema], good: bytes, bad: bytes) -> None:
    said = [bad if word == good else word for word in words(search_command("acme", ASKED, VECTOR, 50))[1:]]
    with pytest.raises(Refused):
        parse_search(Arguments(said), schemas)


@pytest.mark.parametrize(
    "query",
    [
        b"@owner:{a} @partition:{b}=>[KNN 32 @vector $asked AS distance]",
        b"(@owner:{a-b})=>[KNN 32 @vector $asked AS distance]",
        b"(@nobody:{a})=>[KNN 32 @vector $asked AS distance]",
        b"(@owner:{a})=>[KNN 0 @vector $asked AS distance]",
        b"(@owner:{a})=>[KNN 32 @other $asked AS distance]",
        b"(@owner:{a})",
    ],
)
def test_the_stand_in_refuses_queries_that_are_none(schemas: dict[str, Schema], query: bytes) -> None:
    said = words(search_command("acme", ASKED, VECTOR, 50))[1:]
    said[1] = query
    with pytest.raises(Refused):
        parse_search(Arguments(said), schemas)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b"trireme:questions:1:3", b"trireme{questions}"),
        (b"trireme:question:", b"trireme:question:{cache:acme}"),
        (b"FLOAT32", b"FLOAT31"),
        (b"TAG", b"TEXT"),
        (b"DIM", b"DIMENSIONS"),
        (b"6", b"4"),
    ],
)
def test_the_stand_in_refuses_indexes_that_servers_refuse(good: bytes, bad: bytes) -> None:
    with pytest.raises(Refused):
        parse_create(Arguments([bad if word == good else word for word in words(create_command(3))[1:]]))
