"""A causal language model finetuned dense and factored, in one process or in several: the command alone decides.

    pip install transformers && python examples/finetune_transformer.py
    torchrun --nproc-per-node 2 examples/finetune_transformer.py            # DDP
    torchrun --nproc-per-node 2 examples/finetune_transformer.py --fsdp     # FSDP2

A dense model (``--model DIR``: weights and tokenizer from there; else a small Llama that reads bytes, trained here) is
rewritten with ``init="nearest"`` and finetuned while whole blocks of its weights vanish. All processes together see the
batches that one process sees alone, so the table it prints is the same (but for what dropout draws, if there is any).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import download
import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import kronfx as kx

LENGTH, BATCH, LEARNING_RATE = 64, 8, 2e-3


@dataclass(frozen=True, slots=True)
class Place:
    """Which of how many processes this is, and the device it works on."""

    rank: int
    world: int
    device: torch.device

    @property
    def share(self) -> slice:
        """This process's rows of a batch."""
        return slice(self.rank * BATCH // self.world, (self.rank + 1) * BATCH // self.world)

    def mean(self, value: Tensor) -> float:
        """The mean of a value over the processes, in each of them."""
        value = value.detach().clone()
        if self.world > 1:
            dist.all_reduce(value)
        return float(value) / self.world


def place() -> Place:
    """Join the others, where torchrun started any."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Place(rank, world, device)


def dense_model(folder: Path | None) -> nn.Module:
    """The weights in a folder, or a small Llama over bytes, the same in every process."""
    if folder is not None:
        return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=256, max_position_embeddings=LENGTH, **sizes))


def tokens(data: Path, folder: Path | None) -> Tensor:
    """The text as token ids: the model's own tokenizer's, or its bytes."""
    if folder is None:
        return torch.frombuffer(bytearray(data.read_bytes()), dtype=torch.uint8).long()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return torch.tensor(tokenizer(data.read_text(encoding="utf-8")).input_ids)


def batches(text: Tensor, steps: int, seed: int) -> Iterator[Tensor]:
    """Windows ``[BATCH, LENGTH]`` of the text, the same in every process."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        starts = torch.randint(len(text) - LENGTH + 1, (BATCH, 1), generator=generator)
        yield text[starts + torch.arange(LENGTH)]


def spread(model: nn.Module, here: Place, fsdp: bool) -> nn.Module:
    """The model as several processes train it: sharded block by block, or replicated."""
    if here.world == 1:
        return model
    if not fsdp:
        return DistributedDataParallel(model)
    for block in max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len):
        fully_shard(block)
    # Left to itself the root keeps its parameters whole after a forward without backward, an evaluation, and an
    # optimizer built then would train copies that the next step throws away.
    return fully_shard(model, reshard_after_forward=True)


def gathered(model: nn.Module) -> dict[str, Tensor]:
    """The whole state, in every process, by the names of the model before it was wrapped."""
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))


def loss_of(model: nn.Module, batch: Tensor, here: Place) -> Tensor:
    """Mean cross-entropy of this process's rows."""
    rows = batch[here.share].to(here.device)
    return model(input_ids=rows, labels=rows, use_cache=False).loss


@torch.no_grad()
def evaluate(model: nn.Module, text: Tensor, here: Place) -> float:
    """Mean cross-entropy of 16 batches, in nats a token."""
    model.eval()
    losses = [loss_of(model, batch, here) for batch in batches(text, 16, seed=1)]
    model.train()
    return here.mean(torch.stack(losses).mean())


def train(model: nn.Module, text: Tensor, here: Place, given: argparse.Namespace, sparse: bool) -> float:
    """AdamW with a one-cycle schedule, and block sparsity if wanted. Returns the share of zero blocks."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=given.steps)
    sparsity = None
    if sparse:
        sparsity = kx.train.BlockSparsity(model, target=given.target, optimizer=optimizer, steps=given.steps)
    what = "factored" if sparse else "dense   "
    for batch in track(batches(text, given.steps, seed=2), what, total=given.steps, disable=here.rank != 0):
        loss = loss_of(model, batch, here)
        optimizer.zero_grad()
        (loss if sparsity is None else loss + sparsity.penalty()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if sparsity is not None:
            sparsity.step()
        schedule.step()
    return 0.0 if sparsity is None else sparsity.sparsity()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder of a transformers causal language model with its tokenizer")
    parser.add_argument("--data", type=Path, help="a text file (default: tinyshakespeare, downloaded)")
    parser.add_argument("--steps", type=int, default=300, help="of the dense and of the factored training each")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--block", type=int, nargs=2, default=(16, 16), metavar=("M2", "N2"))
    parser.add_argument("--target", type=float, default=0.5, help="share of blocks to drive to zero")
    parser.add_argument("--fsdp", action="store_true", help="under torchrun: FSDP2 instead of DDP")
    given = parser.parse_args()
    given.data = download.text_file(given.data)
    return given


def main() -> None:
    """Train both, print the table."""
    given, here = arguments(), place()
    text = tokens(given.data, given.model)
    training, validation = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]
    table = Table(title=f"{given.data.name}, {here.world} process{'es' if here.world > 1 else ''}")
    for header in ("", "parameters", "loss before", "loss after", "zero blocks"):
        table.add_column(header, justify="right" if header else "left")

    dense = dense_model(given.model).to(here.device)
    model = spread(dense, here, given.fsdp)
    size, before = dense.num_parameters(), evaluate(model, validation, here)
    train(model, training, here, given, sparse=False)
    table.add_row("dense", f"{size:,}", f"{before:.4f}", f"{evaluate(model, validation, here):.4f}", "0.0%")

    trained = dense_model(given.model)
    trained.load_state_dict(gathered(model))
    plan = kx.plan(trained, rank=given.rank, block=tuple(given.block))
    factored = kx.factorize(trained, plan, init="nearest").to(here.device)
    model = spread(factored, here, given.fsdp)
    size, before = factored.num_parameters(), evaluate(model, validation, here)
    share = train(model, training, here, given, sparse=True)
    table.add_row("factored", f"{size:,}", f"{before:.4f}", f"{evaluate(model, validation, here):.4f}", f"{share:.1%}")

    state = gathered(model)
    if here.rank == 0:
        whole = kx.factorize(trained, plan)
        whole.load_state_dict(state)
        folded = kx.fold(whole)
        zero = kx.inspect(folded)
        alone = Place(0, 1, torch.device("cpu"))
        loss = f"{evaluate(folded, validation, alone):.4f}"
        table.add_row("folded", f"{folded.num_parameters():,}", "", loss, f"{zero.zero_blocks / zero.blocks:.1%}")
        Console().print(table)
    if here.world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
