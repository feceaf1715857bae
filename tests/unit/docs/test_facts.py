"""What the pages say of endpoints, parameters, errors, settings, metrics and messages is what the code does."""

import ast
import configparser
import re
from collections.abc import Iterator

import msgspec
import pytest

from control_plane.settings import reference as control_reference
from gateway.accounting.entries import Entry
from gateway.accounting.identities import Identities
from gateway.admission.waiting import WaitingTenants
from gateway.api.endpoints import ANY_KEY, Endpoint, endpoints
from gateway.config import reference
from gateway.errors import GatewayError
from gateway.telemetry.metrics import Metrics
from python_backends.preprocessing.parsing import UNSUPPORTED
from python_backends.preprocessing.schema import ChatRequest, CompletionRequest, EmbeddingRequest
from python_backends.runtime import settings as model_settings
from tests.support.markdown import ROOT, page, pages
from trireme import doctor, machine
from trireme.settings import ENVIRONMENT

API = page("docs/api.md")
OPERATIONS = page("docs/operations.md")
_VARIABLE = re.compile(r"\bTRIREME_[A-Z_]+\b")


def variables(text: str) -> set[str]:
    return set(_VARIABLE.findall(text))


def spans(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", text))


def test_the_endpoints_are_those_of_the_gateway() -> None:
    documented = {row[0].strip("`"): row[2] for row in API.rows("Endpoints")}
    assert documented == {_address(one): _needs(one) for one in endpoints(metrics_key=False)}


def _address(endpoint: Endpoint) -> str:
    return f"{endpoint.method} {re.sub(r':[^}]*', '', endpoint.path)}"


def _needs(endpoint: Endpoint) -> str:
    if endpoint.path == "/metrics":
        return "none, or `metrics` (a setting)"
    if endpoint.scopes is None:
        return "none"
    if endpoint.scopes == ANY_KEY:
        return "any key"
    return " or ".join(f"`{scope}`" for scope in sorted(endpoint.scopes, reverse=True))


@pytest.mark.parametrize(
    ("heading", "kind", "elsewhere"),
    [
        ("Chat completions", ChatRequest, set()),
        ("Completions", CompletionRequest, set(ChatRequest.__struct_fields__)),
        ("Embeddings", EmbeddingRequest, set()),
    ],
)
def test_every_parameter_is_documented(heading: str, kind: type[msgspec.Struct], elsewhere: set[str]) -> None:
    documented = {name for row in API.rows(heading) for name in spans(row[0])}
    own = set(kind.__struct_fields__)
    assert own - elsewhere <= documented
    assert documented <= own


def test_unsupported_parameters_are_named() -> None:
    chats = API.section("Chat completions").partition("Not supported yet:")[2].partition(". A prompt")[0]
    texts = API.section("Completions").partition("Not supported yet:")[2].partition(".")[0]
    assert spans(chats) | spans(texts) == UNSUPPORTED


def error_classes(kind: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from error_classes(one)


def test_the_errors_are_those_of_the_tree() -> None:
    documented = {row[0].strip("`"): row[1:] for row in API.rows("Errors") if row[0].strip("`")[0].isupper()}
    assert documented.keys() == {kind.__name__ for kind in error_classes()}
    for kind in error_classes():
        status, family, codes, again = documented[kind.__name__]
        assert (int(status), family) == (kind.status, f"`{kind.type}`"), kind.__name__
        assert kind.code in spans(codes), kind.__name__
        assert again.startswith("yes" if kind.retryable else "no"), kind.__name__


def codes_in_the_code() -> set[str]:
    """Values that are given to a parameter named `code`, and its defaults in classes."""
    files = [path for folder in ("gateway", "python_backends") for path in (ROOT / folder).rglob("*.py")]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    given = {
        keyword.value.value
        for node in nodes
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "code" and isinstance(keyword.value, ast.Constant)
    }
    return {code for code in given if isinstance(code, str)} | {kind.code for kind in error_classes()}


def test_every_error_code_is_documented() -> None:
    assert codes_in_the_code() - set(API.spans) == set()


def test_every_setting_that_a_page_names_exists() -> None:
    known = variables(reference()) | set(ENVIRONMENT) | variables(model_settings.__doc__ or "")
    known |= {variable for variable, *_ in control_reference()}
    for one in pages():
        assert variables(one.text) - known == set(), str(one)


def test_the_settings_of_stack_and_models_are_documented() -> None:
    wanted = set(ENVIRONMENT) | variables(model_settings.__doc__ or "")
    assert wanted - variables(OPERATIONS.section("Settings")) == set()


def test_the_metrics_are_those_of_the_gateway() -> None:
    families = [*Metrics().registry.collect(), *Identities(1).collect(), *WaitingTenants({}).collect()]
    ours = [family for family in families if family.name.startswith("trireme_")]
    exported = {f"{family.name}_total" if family.type == "counter" else family.name for family in ours}
    documented = {span.partition("{")[0] for row in OPERATIONS.rows("Metrics") for span in spans(row[0])}
    assert {name for name in documented if name.startswith("trireme_")} == exported


def test_the_members_of_an_entry_are_those_of_the_ledger() -> None:
    documented = {span for row in page("docs/accounting.md").rows("An entry") for span in spans(row[0])}
    assert documented == set(Entry.__struct_fields__)


def sentences() -> dict[str, str]:
    """Of checks that fail, as `trireme doctor` would print them."""
    python = (3, 11)
    checks = [
        machine.check_platform("Darwin", "arm64"),
        machine.check_glibc("glibc 2.31"),
        machine.check_cpu("flags : sse2"),
        machine.check_python((3, 10)),
        machine.check_venv(has_venv=False, version=python),
        machine.check_libpython("", python),
        machine.check_disk(3.0, machine.INSTALL_GB),
        doctor.check_memory(1.0),
        doctor.check_shared_memory(1.0),
    ]
    return {check.name: check.problem for check in checks}


@pytest.mark.parametrize("name", sentences())
def test_troubleshooting_quotes_what_doctor_says(name: str) -> None:
    assert sentences()[name] in {row[0] for row in OPERATIONS.rows("Troubleshooting")}


def test_the_steps_of_server_timing_are_those_that_are_marked() -> None:
    calls = [path.read_text("utf-8") for path in (ROOT / "gateway").rglob("*.py")]
    marked = {name for text in calls for name in re.findall(r'\.mark\("(\w+)"\)', text)}
    documented = {span for row in page("docs/request-path.md").rows("Seeing it") for span in spans(" ".join(row))}
    assert documented == marked


def test_the_layers_are_those_that_import_linter_proves() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    proved = contracts["importlinter:contract:layers"]["layers"].strip().splitlines()
    (drawing,) = [block.code for block in page("docs/architecture.md").blocks if block.language == "text"]
    drawn = [re.findall(r"gateway\.\w+", line) for line in drawing.splitlines()]
    assert drawn == [re.findall(r"gateway\.\w+", line) for line in proved]
