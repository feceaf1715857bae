"""The pepper and the development key as files."""

from pathlib import Path

import pytest

from trireme.keys import pepper_file, write_private
from trireme.stack import isolated_settings


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_pepper_is_made_once_and_private(tmp_path: Path) -> None:
    settings = isolated_settings(tmp_path)
    path = pepper_file(settings)
    first = path.read_text()
    assert mode(path) == 0o600
    assert len(bytes.fromhex(first)) == 32
    assert pepper_file(settings).read_text() == first


def test_two_stacks_have_different_peppers(tmp_path: Path) -> None:
    texts = {pepper_file(isolated_settings(tmp_path / name)).read_text() for name in ("a", "b")}
    assert len(texts) == 2


def test_a_secret_replaces_a_file_that_all_could_read(tmp_path: Path) -> None:
    path = tmp_path / "dev.key"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert (path.read_text(), mode(path)) == ("new", 0o600)


def test_leftovers_of_an_interrupted_write_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: 7)
    (tmp_path / ".dev.key.7").write_text("half")
    write_private(tmp_path / "dev.key", "whole")
    assert (tmp_path / "dev.key").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["dev.key"]
