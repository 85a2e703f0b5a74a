"""A tiny factored transformer, trained by one process or by one of several: everybody sees a part of the same batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import kronfx as kx
from kronfx.layers import kronecker_layers

STEPS, BATCH, WORLD = 20, 8, 2


class Tiny(nn.Module):
    """Two encoder layers: plain linear layers, and attention that reads factored weights."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.stem = nn.Linear(12, 32)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(32, 6)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        return self.head(self.encoder(self.stem(x), src_key_padding_mask=padding))


def factored() -> nn.Module:
    """The same factored model in every process; two layers have one row of blocks, which two processes cannot share."""
    torch.manual_seed(0)
    model = kx.factorize(Tiny(), rank=2, init="nearest", block={"encoder.*.linear2": (32, 2)})
    for factors in kx.factors(model).values():
        nn.init.uniform_(factors.S, 0.2, 1.8)
    return model


def data() -> tuple[Tensor, Tensor]:
    """``x [BATCH, 5, 12]`` and what to make of it, ``[BATCH, 5, 6]``."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, 5, 12, generator=generator), torch.randn(BATCH, 5, 6, generator=generator)


@dataclass
class Curve:
    """What a training leaves behind: one entry a step."""

    loss: list[float]
    penalty: list[float]
    sparsity: list[float]


def train(model: nn.Module, part: slice, mean: Callable[[Tensor], Tensor]) -> Curve:
    """AdamW and BlockSparsity on one part of the batch; ``mean`` averages a loss over the processes."""
    x, y = (tensor[part] for tensor in data())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    sparsity = kx.train.BlockSparsity(model, strength=20.0, target=0.5, optimizer=optimizer)
    curve = Curve([], [], [])
    for _ in range(STEPS):
        loss = F.mse_loss(model(x), y)
        penalty = sparsity.penalty()
        optimizer.zero_grad()
        (loss + penalty).backward()
        optimizer.step()
        sparsity.step()
        curve.loss.append(float(mean(loss.detach())))
        curve.penalty.append(float(penalty))
        curve.sparsity.append(sparsity.sparsity())
    return curve


def train_by_muon(model: nn.Module, part: slice, mean: Callable[[Tensor], Tensor]) -> list[float]:
    """A few steps of KroneckerMuon on the factors and of AdamW on the rest: the losses."""
    x, y = (tensor[part] for tensor in data())
    muon = kx.train.KroneckerMuon(model, lr=0.05)
    adamw = torch.optim.AdamW(muon.rest(model), lr=3e-3)
    losses = []
    for _ in range(STEPS // 4):
        loss = F.mse_loss(model(x), y)
        for optimizer in (muon, adamw):
            optimizer.zero_grad()
        loss.backward()
        for optimizer in (muon, adamw):
            optimizer.step()
        losses.append(float(mean(loss.detach())))
    return losses


def replicated(model: nn.Module) -> nn.Module:
    """DDP."""
    return DistributedDataParallel(model)


def sharded(model: nn.Module) -> nn.Module:
    """FSDP2: each block, then what is left."""
    for block in model.encoder.layers:
        fully_shard(block)
    return fully_shard(model)


def work(rank: int, wrap: Callable[[nn.Module], nn.Module], folder: Path) -> None:
    """One of the processes: train, write a distributed checkpoint, let the first one tell what came out."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=WORLD)
    model = wrap(factored())
    share = BATCH // WORLD
    part = slice(rank * share, (rank + 1) * share)
    curve = train(model, part, _mean)
    by_muon = train_by_muon(wrap(factored()), part, _mean)
    empty = torch.tensor([_empty_shards(model)])
    dist.all_reduce(empty)
    checkpoint.save(get_model_state_dict(model), checkpoint_id=folder / "checkpoint")
    model.eval()
    padding = torch.zeros(BATCH, 5, dtype=torch.bool)
    padding[:, 3:] = True
    with torch.no_grad():
        x, _ = data()
        outcome = {
            "y": model(x),
            "padded": model(x, padding)[:, :3],
            "empty_shards": empty,
            "by_muon": by_muon,
            **asdict(curve),
        }
    if rank == 0:
        torch.save(outcome, folder / "outcome.pt")
    dist.destroy_process_group()


def _mean(loss: Tensor) -> Tensor:
    dist.all_reduce(loss)
    return loss / WORLD


def _empty_shards(model: nn.Module) -> int:
    factors = [p for layer in kronecker_layers(model).values() for p in layer.parameters()]
    return sum(isinstance(p, DTensor) and p.to_local().numel() == 0 for p in factors)
