"""LiteLLM's proxy as a peer: in an environment of its own, one worker, keys and limits checked in our Valkey."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from benchmarks.servers import serving
from trireme.claims import free_port
from trireme.settings import LOOPBACK, ROOT

VERSION: Final = "1.106.2"
PLACE: Final = ROOT / ".trireme" / "peers" / "litellm"
START_SECONDS: Final = 120.0
# Longer than the others' blocks: a server that closes a connection while a request comes fails that request.
KEEP_ALIVE_SECONDS: Final = 75

Keys = Mapping[str, Mapping[str, Any]]


def prepared(place: Path | None) -> Path:
    """A virtual environment with LiteLLM, made when it is not there yet; None: the one in the state directory.

    Never the project's own: LiteLLM wants other versions of our packages. Raises RuntimeError.
    """
    place = place or PLACE
    if (place / "bin" / "litellm").exists():
        return place
    sys.stderr.write(f"making a virtual environment in {place}\n")
    venv.create(place, with_pip=True)
    sys.stderr.write(f"installing litellm[proxy]=={VERSION} there (about 750 MB)\n")
    command = [
        str(place / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--progress-bar",
        "off",
        f"litellm[proxy]=={VERSION}",
    ]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise RuntimeError(f"litellm[proxy]=={VERSION} could not be installed in {place}: pip tells why")
    return place


def version_in(place: Path) -> str:
    """The version that is installed there, which may be another one than ours."""
    (metadata,) = place.glob("lib/python*/site-packages/litellm-[0-9]*.dist-info")
    return metadata.name.removeprefix("litellm-").removesuffix(".dist-info")


@contextmanager
def litellm_server(
    place: Path, scratch: Path, *, keys: Keys, model: str, upstream: str, valkey: str, cache: bool = False
) -> Iterator[tuple[str, int]]:
    """URL and process id. `keys`: secret → fields of LiteLLM's `UserAPIKeyAuth`. `cache`: answers, in Valkey."""
    port, home = free_port(), scratch / "litellm"
    home.mkdir()
    shutil.copy(Path(__file__).with_name("litellm_auth.py"), home)
    (home / "config.yaml").write_text(yaml.safe_dump(configuration(model, upstream, valkey, cache=cache)))
    command = [str(place / "bin" / "litellm"), "--config", str(home / "config.yaml"), "--num_workers", "1"]
    command += ["--host", LOOPBACK, "--port", str(port), "--keepalive_timeout", str(KEEP_ALIVE_SECONDS)]
    url = f"http://{LOOPBACK}:{port}"
    environment = {
        **os.environ,
        "BENCHMARK_KEYS": json.dumps(keys),
        "LITELLM_MASTER_KEY": f"sk-{secrets.token_hex(32)}",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
    }
    log = scratch / "litellm.log"
    with serving(command, f"{url}/health/liveliness", log, environment=environment, within=START_SECONDS) as process:
        yield url, process


def configuration(model: str, upstream: str, valkey: str, *, cache: bool = False) -> dict[str, Any]:
    """As in LiteLLM's own benchmark: no callbacks, no retries."""
    upstream_model = {"model": f"openai/{model}", "api_base": f"{upstream}/v1", "api_key": "none"}
    settings: dict[str, Any] = {"callbacks": [], "num_retries": 0, "request_timeout": 30, "set_verbose": False}
    if cache:
        address = urlsplit(valkey)
        place = {"host": address.hostname, "port": str(address.port)}
        settings |= {"cache": True, "cache_params": {"type": "redis", "ttl": 3600, **place}}
    return {
        "model_list": [{"model_name": model, "litellm_params": upstream_model}],
        "litellm_settings": settings,
        "general_settings": {
            "custom_auth": "litellm_auth.authenticate",
            "coordination_redis": {"url": valkey},
        },
    }
