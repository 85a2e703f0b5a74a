"""Checkpoints: what comes back computes the same bits, and what was there is replaced as a whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import models
import pytest
import torch
from disk import no_file_beyond
from safetensors.torch import load_file
from torch import Tensor, nn

import kronfx as kx
from kronfx.checkpoint import load, save
from kronfx.errors import CheckpointError
from kronfx.layers import folded_layers, kronecker_layers


class Buffers(nn.Module):
    """A batch norm (buffers, one of them an integer scalar), a buffer that is no state, and views of one storage."""

    def __init__(self) -> None:
        super().__init__()
        packed = torch.randn(40, 24) / 5
        self.first = nn.Linear(24, 20)
        self.first.weight = nn.Parameter(packed[:20])
        self.second = nn.Linear(24, 20)
        self.second.weight = nn.Parameter(packed[20:])
        self.norm = nn.BatchNorm1d(20)
        self.register_buffer("shift", torch.randn(20))
        self.register_buffer("scratch", torch.ones(20), persistent=False)
        self.register_buffer("empty", torch.empty(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x) + self.second(x)) * self.scratch + self.shift


TOKENS: Callable[[], Tensor] = lambda: torch.randint(0, 40, (3, 5))  # noqa: E731
Case = tuple[Callable[[], nn.Module], Callable[[], Tensor]]
CASES: dict[str, Case] = {
    "odd": (models.Odd, lambda: torch.randn(4, 37)),
    "functional": (models.Functional, lambda: torch.randn(2, 3, 18)),
    "shared": (models.Shared, lambda: torch.randn(5, 16)),
    "tied": (models.Tied, TOKENS),
    "root": (lambda: nn.Linear(12, 20), lambda: torch.randn(3, 12)),
    "convolutions": (models.lenet5, lambda: torch.randn(2, 1, 28, 28)),
    "buffers": (Buffers, lambda: torch.randn(4, 24)),
    "attention": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), 2),
        lambda: torch.randn(2, 5, 16),
    ),
}
STATES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "factored": lambda model: kx.factorize(model, rank=1),
    "untied": lambda model: kx.factorize(model, rank=1, untie=True),
    "folded": lambda model: kx.fold(kx.factorize(model, rank=1)),
    "dense": lambda model: model,
}


def built(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return CASES[name][0]().eval()


def moved(model: nn.Module) -> nn.Module:
    """The same model with values that no construction gives, a third of its blocks gone."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for factors in kx.factors(model).values():
            factors.S[torch.rand(factors.S.shape, generator=generator) < 0.3] = 0
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point() and "scratch" not in name:
                buffer.add_(torch.rand(buffer.shape, generator=generator))
    return model


def assert_same(loaded: nn.Module, saved: nn.Module, x: Tensor) -> None:
    """The same bits in the same places, and the same bits out."""
    theirs, ours = saved.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype
        assert torch.equal(ours[name], value), name
    assert {n: (w.shape, w.zero_blocks()) for n, w in folded_layers(loaded).items()} == {
        n: (w.shape, w.zero_blocks()) for n, w in folded_layers(saved).items()
    }
    assert {n: (w.shape, w.rank, w.evaluation) for n, w in kronecker_layers(loaded).items()} == {
        n: (w.shape, w.rank, w.evaluation) for n, w in kronecker_layers(saved).items()
    }
    with torch.no_grad():
        assert torch.equal(loaded(x), saved(x))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", CASES)
def test_what_was_saved_comes_back(name: str, state: str, tmp_path: Path) -> None:
    saved = moved(STATES[state](built(name, seed=0)))
    assert save(saved, tmp_path / "at") == tmp_path / "at"
    skeleton = built(name, seed=1)
    before = {key: value.clone() for key, value in skeleton.state_dict().items()}
    loaded = load(skeleton, tmp_path / "at")
    assert_same(loaded, saved, CASES[name][1]())
    assert all(torch.equal(value, before[key]) for key, value in skeleton.state_dict().items()), "skeleton mutated"
    assert not kx.factors(skeleton)


@pytest.mark.parametrize("state", ["factored", "folded", "dense"])
@pytest.mark.parametrize("name", ["odd", "shared", "tied", "convolutions", "attention"])
def test_a_skeleton_without_memory(name: str, state: str, tmp_path: Path) -> None:
    saved = moved(STATES[state](built(name, seed=0)))
    save(saved, tmp_path / "at")
    with torch.device("meta"):
        skeleton = CASES[name][0]().eval()
    loaded = load(skeleton, tmp_path / "at")
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    assert_same(loaded, saved, CASES[name][1]())
    trainable = {name: parameter.requires_grad for name, parameter in saved.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in loaded.named_parameters()} == trainable


def test_what_a_state_dict_does_not_keep_cannot_come_from_meta(tmp_path: Path) -> None:
    save(kx.factorize(Buffers()), tmp_path / "at")
    with torch.device("meta"):
        skeleton = Buffers()
    with pytest.raises(
        CheckpointError, match=r"^checkpoint: scratch: on the meta device and not in the checkpoint; nee"
    ):
        load(skeleton, tmp_path / "at")


def test_ties_are_stored_once_and_kept(tmp_path: Path) -> None:
    model = moved(kx.factorize(models.Tied()))
    save(model, tmp_path / "at")
    names = set(load_file(tmp_path / "at" / "model.safetensors"))
    assert len(names & {"embedding.weight", "head.weight"}) == 1
    with torch.device("meta"):
        bodiless = models.Tied()
    for skeleton in (models.Tied(), bodiless):
        loaded = load(skeleton, tmp_path / "at")
        assert loaded.head.weight is loaded.embedding.weight


def test_ties_that_the_class_does_not_know_are_made(tmp_path: Path) -> None:
    model = models.mlp(16, 16, 16)
    model[2].weight = model[0].weight
    save(model, tmp_path / "at")
    loaded = load(models.mlp(16, 16, 16), tmp_path / "at")
    assert loaded[2].weight is loaded[0].weight
    assert_same(loaded, model, torch.randn(3, 16))


def test_a_tie_that_was_cut_is_no_silent_overwrite(tmp_path: Path) -> None:
    model = models.Tied()
    model.head.weight = nn.Parameter(torch.randn(40, 16))
    save(model, tmp_path / "at")
    with pytest.raises(
        CheckpointError, match="embedding.weight and head.weight are two tensors in the checkpoint and one"
    ):
        load(models.Tied(), tmp_path / "at")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype, tmp_path: Path) -> None:
    saved = moved(kx.factorize(models.Odd().to(dtype)))
    save(saved, tmp_path / "at")
    assert_same(load(models.Odd().to(dtype), tmp_path / "at"), saved, torch.randn(2, 37).to(dtype))
    wider = load(models.Odd().double(), tmp_path / "at")
    assert {p.dtype for p in wider.parameters()} == {torch.float64}
    assert all(torch.equal(p, q.double()) for p, q in zip(wider.parameters(), saved.parameters(), strict=True))


def test_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = kx.factorize(models.Odd())
    save(model, tmp_path / "at")
    again = load(models.Odd(), tmp_path / "at")
    x, losses = torch.randn(8, 37), []
    for each in (model, again):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            each(x).square().mean().backward()
            optimizer.step()
        losses.append(each(x).square().mean().item())
    assert losses[0] == losses[1]


def test_the_plan_file_is_a_plan(tmp_path: Path) -> None:
    model = models.Odd()
    plan = kx.plan(model)
    save(kx.factorize(model, plan), tmp_path / "at")
    read = kx.Plan.from_json((tmp_path / "at" / "plan.json").read_text())
    assert [(c.site.name, c.shape, c.rank, c.evaluation) for c in read.choices] == [
        (c.site.name, c.shape, c.rank, c.evaluation) for c in plan.choices
    ]
    assert read.parameters == plan.parameters
    assert [c.site.name for c in kx.plan(models.Odd()).only(*(c.site.name for c in read.choices)).choices]


def test_a_plan_says_what_a_convolution_was(tmp_path: Path) -> None:
    saved = kx.factorize(nn.Sequential(nn.Conv2d(8, 16, 3)))
    save(saved, tmp_path / "at")
    (choice,) = kx.Plan.from_json((tmp_path / "at" / "plan.json").read_text()).choices
    assert (choice.site.taps, choice.site.kind) == (9, "KroneckerConv 3x3")
    with pytest.raises(
        CheckpointError, match="this model makes it a KroneckerConv 1x9; needed the saved KroneckerConv 3x"
    ):
        load(nn.Sequential(nn.Conv2d(8, 16, (1, 9))), tmp_path / "at")


def test_a_checkpoint_is_replaced_and_an_empty_folder_filled(tmp_path: Path) -> None:
    at = tmp_path / "at"
    at.mkdir()
    for seed in range(2):
        saved = moved(kx.factorize(built("odd", seed)))
        save(saved, at)
        assert_same(load(models.Odd(), at), saved, torch.randn(2, 37))
    assert {path.name for path in tmp_path.iterdir()} == {"at"}
    assert {path.name for path in at.iterdir()} == {"plan.json", "model.safetensors"}


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    at = tmp_path / "at"
    small, large = moved(kx.factorize(models.Odd())), nn.Linear(256, 256)
    save(small, at)
    with no_file_beyond(100_000), pytest.raises(CheckpointError, match="^checkpoint: .*cannot write.*; needed "):
        save(large, at)
    assert [path.name for path in tmp_path.iterdir()] == ["at"]
    assert_same(load(models.Odd(), at), small, torch.randn(2, 37))
