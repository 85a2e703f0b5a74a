"""Scale is torch's own: DDP, FSDP2, distributed checkpoints and torch.compile take factored layers as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from scale_worker import BATCH, STEPS, WORLD, Curve, data, factored, replicated, sharded, train, train_by_muon, work
from torch import Tensor, nn
from torch.distributed import checkpoint

import kronfx as kx

# Halves of a batch are summed in another order: float32 rounding (eps 1.2e-7), carried through 20 steps of AdamW.
TOLERANCE = {"rtol": 1e-5, "atol": 0.0}
EXACT = {"rtol": 1e-5, "atol": 1e-6}  # the same values through another process: one pass of float32 rounding


@pytest.fixture(scope="module")
def alone() -> Curve:
    """The loss curve of one process that sees the whole batch."""
    return train(factored(), slice(0, BATCH), lambda loss: loss)


@pytest.fixture(scope="module", params=[replicated, sharded], ids=["ddp", "fsdp2"])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What two gloo processes leave in their folder."""
    folder = tmp_path_factory.mktemp(request.param.__name__)
    mp.spawn(work, (request.param, folder), nprocs=WORLD)
    return folder, torch.load(folder / "outcome.pt")


def test_two_processes_train_as_one(alone: Curve, together: tuple[Path, dict[str, Any]]) -> None:
    _, outcome = together
    torch.testing.assert_close(outcome["loss"], alone.loss, **TOLERANCE)
    torch.testing.assert_close(outcome["penalty"], alone.penalty, **TOLERANCE)
    assert outcome["sparsity"] == alone.sparsity
    assert len(alone.loss) == STEPS
    assert alone.loss[-1] < 0.9 * alone.loss[0]
    assert alone.sparsity[-1] > 0.1


def test_muon_steps_shards_as_whole_factors(together: tuple[Path, dict[str, Any]]) -> None:
    _, outcome = together
    wanted = train_by_muon(factored(), slice(0, BATCH), lambda loss: loss)
    torch.testing.assert_close(outcome["by_muon"], wanted, **TOLERANCE)
    assert wanted[-1] < wanted[0]


def test_a_distributed_checkpoint_loads_in_one_process(together: tuple[Path, dict[str, Any]]) -> None:
    folder, outcome = together
    model = factored().eval()
    state = model.state_dict()
    checkpoint.load(state, checkpoint_id=folder / "checkpoint", no_dist=True)
    model.load_state_dict(state)
    x, _ = data()
    with torch.no_grad():
        torch.testing.assert_close(model(x), outcome["y"], **EXACT)
        torch.testing.assert_close(kx.fold(model)(x), outcome["y"], **EXACT)
        assert not torch.allclose(factored().eval()(x), outcome["y"], rtol=0.1)


def test_some_process_holds_nothing_of_some_factor(together: tuple[Path, dict[str, Any]]) -> None:
    """A factor of one row has one shard: the case the curves above must have been through."""
    folder, outcome = together
    assert bool(outcome["empty_shards"] > 0) == folder.name.startswith("sharded")


def test_a_padding_mask_is_served_whatever_hooks_the_layers_have(together: tuple[Path, dict[str, Any]]) -> None:
    """Hooks (FSDP2's too) take torch's fast path away from a layer, and nested tensors arrive."""
    folder, outcome = together
    model = factored().eval()
    checkpoint.load(state := model.state_dict(), checkpoint_id=folder / "checkpoint", no_dist=True)
    model.load_state_dict(state)
    x, _ = data()
    with torch.no_grad():
        torch.testing.assert_close(outcome["padded"], model(x[:, :3]), **EXACT)


class Block(nn.Module):
    """A pre-norm block as today's decoders spell it."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


def encoder_layer() -> nn.Module:
    """torch's own layer: its packed attention projection becomes a property."""
    return nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)


@pytest.fixture(autouse=True)
def _nothing_compiled() -> None:
    torch.compiler.reset()


@pytest.mark.parametrize("build", [Block, encoder_layer])
@pytest.mark.parametrize("training", [True, False])
def test_compiled_without_a_graph_break(build: Callable[[], nn.Module], training: bool) -> None:
    torch.manual_seed(0)
    model = kx.factorize(build(), rank=2, zero_start=None).train(training)
    x = torch.randn(3, 7, 32)
    report = torch._dynamo.explain(model)(x)
    assert (report.graph_count, report.graph_break_count) == (1, 0)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    wanted, found = _value_and_gradients(model, x), _value_and_gradients(compiled, x)
    torch.testing.assert_close(found, wanted, **EXACT)
    with torch._dynamo.config.patch(error_on_recompile=True):
        torch.testing.assert_close(compiled(x + 1), model(x + 1), **EXACT)


def test_compiled_in_inference() -> None:
    torch.manual_seed(0)
    model = kx.factorize(encoder_layer(), rank=2, zero_start=None).eval()
    x = torch.randn(3, 7, 32)
    with torch.no_grad():
        found = torch.compile(model, backend="aot_eager", fullgraph=True)(x)
        torch.testing.assert_close(found, model(x), **EXACT)


def test_inductor_computes_the_same() -> None:
    torch.manual_seed(0)
    model = kx.factorize(Block(), rank=2, zero_start=None).eval()
    x = torch.randn(3, 7, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), model(x), **EXACT)


def _value_and_gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    y = model(x)
    y.square().mean().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None for gradient in gradients)
    return [y.detach(), *(gradient.clone() for gradient in gradients if gradient is not None)]
