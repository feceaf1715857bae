"""One stack of real parts (tritonserver, Valkey, gateway) with the scripted engine, for all tests here."""

from collections.abc import Iterator

import pytest

from trireme.stack import EmbeddedStack, isolated_settings


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    settings = isolated_settings(tmp_path_factory.mktemp("stack"), engine="scripted")
    with EmbeddedStack(settings) as running:
        yield running


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """tritonserver alone."""
    settings = isolated_settings(tmp_path_factory.mktemp("triton"), engine="scripted")
    with EmbeddedStack(settings, parts={"triton"}) as running:
        yield running
