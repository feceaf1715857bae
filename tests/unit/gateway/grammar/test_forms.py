"""The stage: known forms cost nothing, new ones are compiled elsewhere, and only so many wait for that."""

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest

from gateway.core.call import Call, Model
from gateway.core.limit import TimeLimit
from gateway.errors import GrammarUnavailable, InvalidRequest
from gateway.grammar.forms import Forms
from python_backends.grammar.checker import CheckerUnavailableError
from python_backends.messages import Constraint
from python_backends.preprocessing.errors import RequestError
from python_backends.preprocessing.parsing import parse_chat
from python_backends.preprocessing.schema import ChatRequest


class Checker:
    """Knows what it was asked before. `gate`: closed while verdicts take long."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[Constraint] = []
        self.failing: Exception | None = None

    def recall(self, wanted: Constraint, param: str) -> Constraint | None:
        return wanted if wanted in self.asked else None

    def check(self, wanted: Constraint, param: str) -> Constraint:
        self.gate.wait()
        self.asked.append(wanted)
        if self.failing is not None:
            raise self.failing
        return wanted


@pytest.fixture
def checker() -> Checker:
    return Checker()


@pytest.fixture
def forms(checker: Checker) -> Iterator[Forms]:
    forms = Forms({"tiny": checker}, 1)
    yield forms
    checker.gate.set()
    forms.close()


def new_call() -> Call:
    return Call("r", "u", "/", TimeLimit(10), model=Model("tiny", "generate", 256, 0))


def body(regex: str | None = None) -> ChatRequest:
    asked = {} if regex is None else {"structured_outputs": {"regex": regex}}
    return parse_chat(json.dumps({"messages": [{"role": "user", "content": "x"}], **asked}))


async def test_a_form_is_compiled_once(forms: Forms, checker: Checker) -> None:
    call = new_call()
    for _ in range(3):
        await forms.check(call, body("a+"))
    assert checker.asked == [Constraint(regex="a+")]
    assert "grammar" in call.stages


async def test_a_request_that_asks_for_no_form_does_nothing(forms: Forms, checker: Checker) -> None:
    call = new_call()
    await forms.check(call, body())
    assert checker.asked == []
    assert "grammar" not in call.stages


async def test_a_refusal_has_the_words_of_the_checker(forms: Forms, checker: Checker) -> None:
    checker.failing = RequestError("no such form", param="structured_outputs.regex", code="invalid_regex")
    with pytest.raises(InvalidRequest, match="no such form") as caught:
        await forms.check(new_call(), body("("))
    assert (caught.value.param, caught.value.code) == ("structured_outputs.regex", "invalid_regex")


async def test_a_checker_that_is_away_is_nobodys_fault(forms: Forms, checker: Checker) -> None:
    checker.failing = CheckerUnavailableError("away")
    with pytest.raises(GrammarUnavailable, match="cannot be checked now"):
        await forms.check(new_call(), body("a"))


async def test_only_so_many_wait_and_known_forms_do_not(forms: Forms, checker: Checker) -> None:
    await forms.check(new_call(), body("known"))
    checker.gate.clear()
    first = asyncio.create_task(forms.check(new_call(), body("slow")))
    await asyncio.sleep(0)
    with pytest.raises(GrammarUnavailable, match="too many"):
        await forms.check(new_call(), body("more"))
    await forms.check(new_call(), body("known"))
    checker.gate.set()
    await first
    await forms.check(new_call(), body("more"))
