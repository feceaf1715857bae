"""Forms of answers on the real engine, through the `openai` client and directly, with and without streams."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

import httpx
import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

from tests.e2e.conftest import MAX_NUM_SEQS
from tests.support.gateway import GatewayClient, wait_until
from tests.support.schemas import SCHEMAS, UNSUPPORTED
from tests.support.triton import DirectTriton, text_of
from trireme.stack import EmbeddedStack

pytestmark = pytest.mark.e2e
MAX_TOKENS = 150
# Of the answers to all schemas; the others, of schemas that set no bound, are cut.
MOSTLY_WHOLE, CUT_AFTER = 0.8, 80
Name = Annotated[str, Field(pattern="^[A-Z][a-z]{1,11}$")]


class Ship(BaseModel):
    """Of at most MAX_TOKENS characters, so that whatever the model says ends by itself."""

    name: Name
    oars: int = Field(ge=1, le=300)
    kind: Literal["trireme", "bireme"]
    crew: list[Name] = Field(max_length=2)


# Long enough that others come while it is written, and bounded as well: each of them takes 25 to 32 characters.
CREW = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string", "pattern": "^[A-Z][a-z]{3,7}$"}, "age": {"enum": [*range(20, 60)]}},
        "required": ["name", "age"],
    },
    "minItems": 7,
    "maxItems": 7,
}
CREW_TOKENS = 7 * 34


def asked(schema: Any, name: str = "answer") -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


def messages(about: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Answer with JSON about {about}."}]


def test_every_whole_answer_validates(client: openai.OpenAI, model: str) -> None:
    """Every second one as a stream; as many at a time as the engine takes."""

    def ask(number: int, name: str) -> tuple[str, str, str]:
        fields: dict[str, Any] = {"response_format": asked(SCHEMAS[name]), "max_tokens": CUT_AFTER, "seed": number}
        if number % 2:
            chunks = [
                one.choices[0]
                for one in client.chat.completions.create(model=model, messages=messages(name), stream=True, **fields)
            ]
            finish = next(one.finish_reason for one in chunks if one.finish_reason)
            return name, "".join(one.delta.content or "" for one in chunks), finish
        choice = client.chat.completions.create(model=model, messages=messages(name), **fields).choices[0]
        return name, choice.message.content or "", choice.finish_reason

    with ThreadPoolExecutor(MAX_NUM_SEQS) as pool:
        answers = list(pool.map(lambda one: ask(*one), enumerate(SCHEMAS)))
    whole = [(name, text) for name, text, finish in answers if finish == "stop"]
    for name, text in whole:
        formats = jsonschema.Draft202012Validator.FORMAT_CHECKER
        jsonschema.Draft202012Validator(SCHEMAS[name], format_checker=formats).validate(json.loads(text))
    assert len(whole) >= MOSTLY_WHOLE * len(SCHEMAS)


def test_pydantic_models_are_parsed(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.parse(
        model=model, messages=messages("a ship"), response_format=Ship, max_tokens=MAX_TOKENS, temperature=0
    )
    parsed = answer.choices[0].message.parsed
    assert isinstance(parsed, Ship)


def test_pydantic_models_are_parsed_from_a_stream(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.stream(
        model=model, messages=messages("a ship"), response_format=Ship, max_tokens=MAX_TOKENS, temperature=0
    ) as stream:
        answer = stream.get_final_completion()
    assert isinstance(answer.choices[0].message.parsed, Ship)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_cannot_be_kept_is_refused_up_front(client: openai.OpenAI, model: str, name: str) -> None:
    schema = {"type": "object", "properties": {"inner": UNSUPPORTED[name]}, "required": ["inner"]}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=messages(name), response_format=asked(schema))
    assert caught.value.code in ("unsupported_schema", "grammar_too_complex")


def test_any_json_object(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model,
        messages=messages("the sea"),
        response_format={"type": "json_object"},
        max_tokens=60,
        extra_body={"on_length": "close"},
    )
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"regex": r"\d{3}-\d{4}"}, r"\d{3}-\d{4}"),
        ({"choice": ["Paris", "Zürich", "🛶"]}, "Paris|Zürich|🛶"),
        ({"grammar": 'start: "SELECT " NAME " FROM " NAME\nNAME: /[a-z]{1,8}/'}, "SELECT [a-z]{1,8} FROM [a-z]{1,8}"),
        ({"grammar": 'root ::= "yes" | "no" more\nmore ::= "!" | "?"'}, r"yes|no[!?]"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_other_forms(client: openai.OpenAI, model: str, form: dict[str, Any], pattern: str, stream: bool) -> None:
    fields: dict[str, Any] = {"max_tokens": 40, "n": 2, "extra_body": {"structured_outputs": form}}
    texts = {0: "", 1: ""}
    if stream:
        for chunk in client.chat.completions.create(model=model, messages=messages("it"), stream=True, **fields):
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    else:
        answer = client.chat.completions.create(model=model, messages=messages("it"), **fields)
        texts = {one.index: one.message.content or "" for one in answer.choices}
    assert all(re.fullmatch(pattern, text) for text in texts.values()), texts


def test_a_stop_string_and_a_form(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model,
        messages=messages("it"),
        stop=["5"],
        max_tokens=40,
        extra_body={"structured_outputs": {"regex": "1 2 3 4 5 6"}},
    )
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("1 2 3 4 ", "stop")


def test_an_answer_that_is_cut_can_be_closed(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model,
        messages=messages("a ship"),
        response_format=asked(Ship.model_json_schema()),
        max_tokens=5,
        extra_body={"on_length": "close"},
    )
    assert answer.choices[0].finish_reason == "length"
    Ship.model_validate_json(answer.choices[0].message.content or "")


def test_a_direct_client_gets_the_same(direct: DirectTriton) -> None:
    form = asked(Ship.model_json_schema())
    deltas = direct.deltas({"messages": messages("a ship"), "response_format": form, "max_tokens": MAX_TOKENS})
    assert deltas[-1]["grammar"] == "valid"
    Ship.model_validate_json(text_of(deltas))


def test_a_paused_answer_keeps_its_form(stack: EmbeddedStack, direct: DirectTriton) -> None:
    """Batch work fills the engine and is preempted by urgent requests while it writes."""
    gateway = GatewayClient(stack)
    before = direct.control(control="stats")["preemptions"]
    violations = violated(gateway)
    fields = {"response_format": asked(CREW), "max_tokens": CREW_TOKENS, "messages": messages("a crew")}

    def batch(seed: int) -> httpx.Response:
        return gateway.chat({"x-priority": "batch"}, seed=seed, **fields)

    with ThreadPoolExecutor(MAX_NUM_SEQS) as pool:
        running = [pool.submit(batch, seed) for seed in range(MAX_NUM_SEQS)]
        wait_until(lambda: direct.control(control="stats")["running"] == MAX_NUM_SEQS, "batch work fills the engine")
        urgent = gateway.chat({"x-priority": "interactive"}, messages=messages("it"), max_tokens=4)
        assert urgent.status_code == httpx.codes.OK
        answers = [one.result().json()["choices"][0] for one in running]
    assert direct.control(control="stats")["preemptions"] > before, "one of these answers was paused"
    for choice in answers:
        assert choice["finish_reason"] == "stop"
        jsonschema.validate(json.loads(choice["message"]["content"]), CREW)
    assert violated(gateway) == violations


def violated(gateway: GatewayClient) -> list[str]:
    """The lines that count answers that left their form."""
    lines = gateway.get("/metrics").text.splitlines()
    return [one for one in lines if "structured" in one and 'outcome="violated"' in one]
