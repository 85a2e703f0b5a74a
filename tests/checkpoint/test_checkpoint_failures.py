"""What is no checkpoint, or not of this model, is said in words; nothing is unpickled, nothing else replaced."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import models
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import kronfx as kx
from kronfx.checkpoint import load, save
from kronfx.errors import CheckpointError


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as caught:
        call()
    text = str(caught.value)
    assert text.startswith("checkpoint: ")
    assert "; needed " in text
    return text


def test_another_model_is_spelled_out(tmp_path: Path) -> None:
    at = tmp_path / "at"
    save(kx.factorize(models.Odd(), include=["first"]), at)
    assert "first (53x37): the plan names a site that this model has not" in refused(lambda: load(models.Shared(), at))
    other = models.Odd()
    other.first = nn.Linear(36, 53)
    assert "first (53x37): this model's weight is 53x36" in refused(lambda: load(other, at))
    other = models.Odd()
    other.head = nn.Linear(45, 12, bias=False)
    other.extra = nn.Linear(2, 2)
    text = refused(lambda: load(other, at))
    assert "the checkpoint lacks extra.weight, extra.bias" in text
    assert "this model lacks head.bias" in text
    assert "head.weight is 11x45 in the checkpoint and 12x45 in this model" in text
    whole = models.Odd()
    whole.head.bias = nn.Parameter(torch.zeros(11, dtype=torch.int32), requires_grad=False)
    assert "head.bias is torch.float32 in the checkpoint and torch.int32" in refused(lambda: load(whole, at))
    lazy = models.Odd()
    lazy.second = nn.LazyLinear(45, bias=False)
    assert "second.weight is uninitialized in this model" in refused(lambda: load(lazy, at))
    assert "factored already (first" in refused(lambda: load(kx.factorize(models.Odd()), at))
    assert "a str where the model belongs" in refused(lambda: load("model", at))  # type: ignore[arg-type]


class Stateful(nn.Linear):
    """Keeps more than tensors."""

    def get_extra_state(self) -> dict[str, int]:
        return {"a": 1}


def test_what_cannot_be_saved_says_so(tmp_path: Path) -> None:
    at = tmp_path / "at"
    with torch.device("meta"):
        meta = models.Odd()
    sparse = nn.Module()
    sparse.register_buffer("graph", torch.eye(3).to_sparse())
    assert "first.weight: a tensor on the meta device" in refused(lambda: save(meta, at))
    assert "_extra_state: an entry of type dict" in refused(lambda: save(Stateful(4, 4), at))
    assert "weight: an uninitialized parameter" in refused(lambda: save(nn.LazyLinear(3), at))
    assert "graph: a Tensor of layout torch.sparse_coo" in refused(lambda: save(sparse, at))
    assert "a str where the model belongs" in refused(lambda: save("model", at))  # type: ignore[arg-type]
    spelled = kx.graph(kx.factorize(models.Odd()))
    assert "a graph that spells the factors out" in refused(lambda: save(spelled, at))
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    model = models.Odd()
    file, folder, foreign = tmp_path / "file", tmp_path / "folder", tmp_path / "foreign"
    file.write_text("mine")
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    foreign.mkdir()
    (foreign / "plan.json").write_text('{"format": "another"}')
    (foreign / "model.safetensors").write_text("mine")
    assert "it is a file" in refused(lambda: save(model, file))
    assert "it holds other things (thesis.txt)" in refused(lambda: save(model, folder))
    assert "plan.json is damaged: JSON that is no kronfx plan" in refused(lambda: save(model, foreign))
    assert "is no folder" in refused(lambda: save(model, tmp_path / "no" / "such"))
    assert (
        file.read_text() == (folder / "thesis.txt").read_text() == (foreign / "model.safetensors").read_text() == "mine"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder", "foreign"}


class Payload:
    """A pickle that runs a command when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    at, trace = tmp_path / "at", tmp_path / "executed"
    save(models.Odd(), at)
    poison = pickle.dumps(Payload(trace))
    (at / "model.safetensors").write_bytes(poison)
    assert "model.safetensors is damaged" in refused(lambda: load(models.Odd(), at))
    (at / "plan.json").write_bytes(poison)
    assert "plan.json is damaged" in refused(lambda: load(models.Odd(), at))
    torch.save({"x": Payload(trace)}, at / "model.safetensors")
    refused(lambda: load(models.Odd(), at))
    assert not trace.exists()
    pickle.loads(poison)
    assert trace.exists(), "the payload works"


def test_no_checkpoint_there(tmp_path: Path) -> None:
    at = tmp_path / "at"
    assert f"there is no folder {at}" in refused(lambda: load(models.Odd(), at))
    at.mkdir()
    assert "is no checkpoint: it has no plan.json and no model.saf" in refused(lambda: load(models.Odd(), at))
    save(models.Odd(), at)
    (at / "model.safetensors").unlink()
    assert "it has no model.safetensors" in refused(lambda: load(models.Odd(), at))
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(lambda: load(models.Odd(), tmp_path / "file"))


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ({"folded": None}, "AttributeError"),
        ({"folded": {"first": {"m1": -1, "n1": -1, "m2": 1, "n2": 1}}}, "a block grid"),
        ({"folded": {"first": {"m1": 1}}}, "TypeError"),
        ({"choices": 3}, "a damaged plan"),
        ({"version": 99}, "a plan of version 99"),
        ({"tied": {"a": "gone"}}, "it lacks gone"),
        ({"tied": []}, "AttributeError"),
    ],
)
def test_a_damaged_plan(edit: dict[str, object], says: str, tmp_path: Path) -> None:
    save(models.Odd(), tmp_path / "at")
    file = tmp_path / "at" / "plan.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | edit))
    assert says in refused(lambda: load(models.Odd(), tmp_path / "at"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_of_the_header_is_a_sentence_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    """Length, names, dtypes, offsets: one byte changed or the file cut anywhere. (Values are the user's to change.)"""
    at = tmp_path / "at"
    saved = models.mlp(6, 4)
    save(saved, at)
    file = at / "model.safetensors"
    content = bytearray(file.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    where = data.draw(st.integers(0, header - 1))
    if data.draw(st.booleans()):
        content[where] ^= data.draw(st.integers(1, 255))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    file.write_bytes(bytes(content))
    try:
        loaded = load(models.mlp(6, 4), at)
    except CheckpointError:
        return
    assert loaded.state_dict().keys() == saved.state_dict().keys()
