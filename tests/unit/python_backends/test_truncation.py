"""What is left of a text that is too long."""

from hypothesis import given
from hypothesis import strategies as st

from python_backends.messages import Truncation
from python_backends.preprocessing.truncation import Frame, truncated

FRAME = Frame((101,), (102,))
IDS = [101, 1, 2, 3, 4, 102]


def test_an_end_is_left_out_and_the_frame_stays() -> None:
    assert truncated(IDS, 4, "end", FRAME) == [101, 1, 2, 102]
    assert truncated(IDS, 4, "start", FRAME) == [101, 3, 4, 102]
    assert truncated(IDS, 4, "none", FRAME) == IDS


def test_ids_without_the_frame_are_cut_as_they_are() -> None:
    assert truncated([1, 2, 3, 4], 2, "end", FRAME) == [1, 2]
    assert truncated([1, 2, 3, 4], 2, "start", FRAME) == [3, 4]


@given(
    st.lists(st.integers(1, 100), max_size=30),
    st.integers(1, 20),
    st.sampled_from(["start", "end"]),
    st.lists(st.integers(101, 103), max_size=2),
    st.lists(st.integers(104, 106), max_size=2),
)
def test_it_fits_and_is_a_piece_of_the_text_in_its_frame(
    text: list[int], most: int, truncate: Truncation, before: list[int], behind: list[int]
) -> None:
    found = truncated([*before, *text, *behind], most, truncate, Frame(tuple(before), tuple(behind)))
    assert len(found) == min(most, len(before) + len(text) + len(behind))
    if most > len(before) + len(behind):
        assert found[: len(before)] == before
        assert found[len(found) - len(behind) :] == behind
        left = found[len(before) : len(found) - len(behind)]
        assert left == (text[: len(left)] if truncate == "end" else text[len(text) - len(left) :])
