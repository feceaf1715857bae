"""Adapters' files: no path leads out of the root, and only what fits the base model is accepted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backends.adapters.directory import CONFIG, WEIGHTS, AdapterError, check_path, locate, relative_path
from python_backends.adapters.inspection import Base, Bounds, inspect
from tests.support.adapters import RANK, write_adapter, write_safetensors

Q, V = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"
SHAPES = {Q: (4, 4), V: (2, 4)}
BASE = Base(4, SHAPES)
BOUNDS = Bounds(max_rank=16, max_bytes=100_000)
PARTS = st.sampled_from(["..", ".", "", "a", "1", "b-2", ".hidden", "/etc", "~", "a\0b", "a\nb", "%2e%2e", "\\.."])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_adapter(tmp_path / "root" / "pirate" / "1", shapes=SHAPES)
    return tmp_path / "root"


@given(st.lists(PARTS, min_size=1, max_size=6), st.sampled_from(["", "/", "file:", "file://", "file:///", "https://"]))
def test_no_path_leads_out_of_the_root(parts: list[str], before: str) -> None:
    root = Path("/srv/adapters")
    try:
        found = relative_path(root, before + "/".join(parts))
    except AdapterError:
        return
    assert (root / found).resolve().is_relative_to(root)
    assert not any(part.startswith(".") for part in found.split("/"))


@given(st.text(max_size=300))
def test_whatever_is_accepted_as_a_path_stays_below_the_root(path: str) -> None:
    try:
        check_path(path)
    except AdapterError:
        return
    assert Path("/srv", path).resolve().is_relative_to("/srv")
    assert not Path(path).is_absolute()


@pytest.mark.parametrize("given_as", ["pirate/1", "{root}/pirate/1", "file:{root}/pirate/1", "file://{root}/pirate/1"])
def test_a_path_may_be_relative_absolute_or_a_file_uri(root: Path, given_as: str) -> None:
    assert relative_path(root, given_as.format(root=root)) == "pirate/1"


@pytest.mark.parametrize(
    "given_as", ["https://host/pirate", "s3://bucket/pirate", "/etc", "file:///etc/passwd", "../x"]
)
def test_other_places_are_refused(root: Path, given_as: str) -> None:
    with pytest.raises(AdapterError):
        relative_path(root, given_as)


def test_links_may_not_leave_the_root(root: Path, tmp_path: Path) -> None:
    outside = write_adapter(tmp_path / "outside", shapes=SHAPES)
    (root / "out").symlink_to(outside)
    (root / "in").symlink_to(root / "pirate" / "1")
    with pytest.raises(AdapterError, match="leads out"):
        locate(root, "out")
    assert inspect(root, "in", BASE, BOUNDS) == inspect(root, "pirate/1", BASE, BOUNDS)
    (root / "half").mkdir()
    for name in (CONFIG, WEIGHTS):
        (root / "half" / name).symlink_to(outside / name)
    with pytest.raises(AdapterError, match="leads out"):
        inspect(root, "half", BASE, BOUNDS)


def test_a_good_adapter_is_known_by_its_content(root: Path) -> None:
    found = inspect(root, "pirate/1", BASE, BOUNDS)
    assert found.rank == RANK
    assert found.bytes == (root / "pirate" / "1" / WEIGHTS).stat().st_size
    assert found.checksum.startswith("sha256:")
    write_adapter(root / "copy", shapes=SHAPES)
    write_adapter(root / "other", 1, shapes=SHAPES)
    assert inspect(root, "copy", BASE, BOUNDS).checksum == found.checksum
    assert inspect(root, "other", BASE, BOUNDS).checksum != found.checksum


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"peft_type": "IA3"}, "only LORA"),
        ({"r": 0}, "rank"),
        ({"r": 64}, "its rank is 64"),
        ({"rank_pattern": {"q_proj": 32}}, "its rank is 32"),
        ({"bias": "all"}, "bias"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": "eight"}, "makes no sense"),
    ],
)
def test_a_configuration_that_cannot_be_served_is_refused(root: Path, changes: dict[str, Any], problem: str) -> None:
    write_adapter(root / "bad", shapes=SHAPES, **changes)
    with pytest.raises(AdapterError, match=problem):
        inspect(root, "bad", BASE, BOUNDS)


def rewrite(tensors: dict[str, Any]) -> Callable[[Path], None]:
    return lambda directory: write_safetensors(directory / WEIGHTS, tensors)


def pair(module: str, outputs: int, inputs: int, rank: int = RANK) -> dict[str, Any]:
    name = f"base_model.model.{module}"
    return {f"{name}.lora_A.weight": np.zeros((rank, inputs)), f"{name}.lora_B.weight": np.zeros((outputs, rank))}


def cut(directory: Path) -> None:
    file = directory / WEIGHTS
    file.write_bytes(file.read_bytes()[:-8])


def garble(directory: Path) -> None:
    (directory / WEIGHTS).write_bytes(b"\xff" * 100)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (cut, "its header speaks of"),
        (garble, "not a safetensors file"),
        (rewrite({}), "empty"),
        (rewrite(pair(Q, 4, 8)), "4×8, and 4×4 there"),
        (rewrite(pair("model.layers.7.mlp.up_proj", 4, 4)), "has no module model.layers.7.mlp.up_proj"),
        (rewrite(pair(Q, 4, 4, rank=12)), "ranks 12"),
        (rewrite(dict(list(pair(Q, 4, 4).items())[:1])), "only one of its two"),
        (rewrite({"base_model.model.lm_head.weight": np.zeros((4, 4))}), "none of a LoRA's matrices"),
        (lambda directory: (directory / "adapter_model.bin").write_bytes(b"x"), "pickles are not loaded"),
        (lambda directory: (directory / CONFIG).unlink(), f"holds no {CONFIG}"),
        (lambda directory: (directory / WEIGHTS).unlink(), f"holds no {WEIGHTS}"),
        (lambda directory: (directory / CONFIG).write_text("{"), "makes no sense"),
    ],
)
def test_files_that_do_not_fit_are_refused(root: Path, damage: Callable[[Path], object], problem: str) -> None:
    damage(root / "pirate" / "1")
    with pytest.raises(AdapterError, match=problem):
        inspect(root, "pirate/1", BASE, BOUNDS)


def test_large_files_are_refused_before_they_are_read(root: Path) -> None:
    with pytest.raises(AdapterError, match="at most 10 are allowed"):
        inspect(root, "pirate/1", BASE, Bounds(max_rank=16, max_bytes=10))


def test_without_the_bases_weights_its_hidden_size_decides(root: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 4}))
    assert inspect(root, "pirate/1", Base.from_dir(tmp_path), BOUNDS).rank == RANK
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    with pytest.raises(AdapterError, match="hidden size of 4"):
        inspect(root, "pirate/1", Base.from_dir(tmp_path), BOUNDS)
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"hidden_size": 8}}))
    assert inspect(root, "pirate/1", Base.from_dir(tmp_path), BOUNDS).rank == RANK, "nothing is known"
    write_safetensors(tmp_path / "model.safetensors", {f"{name}.weight": np.zeros(s) for name, s in SHAPES.items()})
    assert inspect(root, "pirate/1", Base.from_dir(tmp_path), BOUNDS).rank == RANK
