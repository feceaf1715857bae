"""Which questions may have the same answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.semantic.guards import objection

SAME = [
    ("How do I reset my password?", "how can I reset my password"),
    ("How do I reset my password?", "How do you reset your password?"),
    ("What's the capital of France?", "What is the capital of France"),
    ("What are the best ways to learn Java?", "How can I learn Java?"),
    ("Which planets have rings?", "What planets have rings?"),
    ("What is the difference between cats and dogs?", "What is the difference between dogs and cats?"),
    ("Why do people lie?", "Why does people lie"),
    ("What are some facts about Mars?", "What are the facts about Mars"),
    ("  Is water wet ?? ", "is water wet ??"),
]
OTHER = [
    ("How many days has June?", "How many days has July?", "words"),
    ("Who won the cup in 2015?", "Who won the cup in 2016?", "numbers"),
    ("I have two cats, is that much?", "I have three cats, is that much?", "numbers"),
    ("What is 5 - 3?", "What is 5, 3?", "words"),
    ("Is it -5 degrees cold?", "Is it 5 degrees cold?", "words"),
    ("Can cats swim?", "Can cats not swim?", "negation"),
    ("Can dogs eat grapes?", "Can't dogs eat grapes?", "negation"),
    (
        "Is it possible to not have mental illness and be insane?",
        "Is it possible to have mental illness and not be insane?",
        "negation",
    ),
    ("Who is the president?", "Where is the president?", "question"),
    ("Who is the president?", "Who was the president?", "words"),
    ("Should I leave?", "Can I leave?", "words"),
    ("What is my name?", "What is your name?", "person"),
    ("Does Alice love Bob?", "Does Bob love Alice?", "order"),
    ("How do I fly from Rome to Oslo?", "How do I fly from Oslo to Rome?", "order"),
    ("Is gold more expensive than silver?", "Is gold less expensive than silver?", "words"),
    ("How do I start the engine?", "How do I stop the engine?", "words"),
    ("What happens before birth?", "What happens after birth?", "words"),
    ("What should the US do?", "What should we do?", "person"),
    ("Are there jobs in IT?", "Are there jobs in it?", "words"),
    ("How do I forgive someone?", "How do I forgive myself?", "words"),
    ("books by Tolkien", "books about Tolkien", "words"),
    ("Is the cat in the box?", "Is the cat on the box?", "words"),
    ("Does John love?", "Is John loved?", "words"),
    ("Did he hit?", "Was he hit?", "words"),
    ("What is a good score?", "What is the best score?", "words"),
    ("Do all birds fly?", "Do some birds fly?", "words"),
    ("What is (a+b)*c?", "What is a+(b*c)?", "marks"),
    ("What is x < y?", "What is x > y?", "marks"),
    ("What does C++ mean?", "What does C mean?", "words"),
    ("Wie alt ist Rom?", "Wie alt ist Bonn?", "words"),
    ("Ist Gold teuer?", "Ist Gold nicht teuer?", "words"),
    ("who are you", "who am I", "person"),
    ("of the", "of the", "empty"),
    ("", "", "empty"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_question_in_other_words(one: str, other: str) -> None:
    assert objection(one, other) is None


@pytest.mark.parametrize(("one", "other", "why"), OTHER)
def test_another_question_in_nearly_the_same_words(one: str, other: str, why: str) -> None:
    assert objection(one, other) == why


@given(st.text(max_size=80), st.text(max_size=80))
def test_it_does_not_matter_who_asked_first(one: str, other: str) -> None:
    assert (objection(one, other) is None) == (objection(other, one) is None)


@given(st.text(max_size=80), st.integers(0, 10**6))
def test_another_number_is_another_question(text: str, number: int) -> None:
    assert objection(f"{text} {number}", f"{text} {number + 1}") is not None


@given(st.sampled_from(["dogs", "ships", "kings"]), st.sampled_from(["never", "not", "no", "without"]))
def test_a_negation_that_is_only_in_one_counts(noun: str, negation: str) -> None:
    assert objection(f"do {noun} sleep at night", f"do {noun} {negation} sleep at night") == "negation"
