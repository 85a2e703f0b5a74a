"""The whole path on real data in under a minute: plan, factorize, train to sparsity, fold, export, run in onnxruntime.

    python examples/quickstart.py

Scikit-learn's bundled handwritten digits (1,797 images of 8x8), an MLP of three linear layers trained dense and
factored with the same optimizer care. The table it prints is the answer; the ONNX file it leaves is the product.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import kronfx as kx

EPOCHS, BATCH, LEARNING_RATE, TARGET = 40, 64, 1e-2, 0.7
BATCH_SIZES = (1, 7, 256)
Predict = Callable[[np.ndarray], np.ndarray]


def mlp() -> nn.Sequential:
    """64 pixels to 10 digits through two hidden layers."""
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images (``[N, 64]`` in 0 ... 1) and labels, a quarter for the test, classes balanced."""
    data = load_digits()
    images, labels = (data.data / 16).astype(np.float32), data.target.astype(np.int64)
    split = train_test_split(images, labels, test_size=0.25, random_state=seed, stratify=labels)
    return tuple(map(torch.from_numpy, split))  # type: ignore[return-value]


def train(model: nn.Module, x: Tensor, y: Tensor, target: float | None) -> None:
    """Adam with a one-cycle schedule; with a target, that share of blocks is driven to exactly zero on the way."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    steps = EPOCHS * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    sparsity = (
        None if target is None else kx.train.BlockSparsity(model, target=target, optimizer=optimizer, steps=steps)
    )
    for _ in track(range(EPOCHS), description="dense   " if target is None else "factored"):
        for batch in torch.randperm(len(x)).split(BATCH):
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            (loss if sparsity is None else loss + sparsity.penalty()).backward()
            optimizer.step()
            if sparsity is not None:
                sparsity.step()
            schedule.step()


def in_torch(model: nn.Module) -> Predict:
    """A model as a function of arrays."""

    def predict(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(x)).numpy()

    return predict


def in_onnxruntime(path: Path) -> Predict:
    """An ONNX file as a function of arrays, in stock onnxruntime on two threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def latency(predict: Predict, batch: int) -> float:
    """Median seconds of one call on random rows, warmed up."""
    x = np.random.default_rng(0).random((batch, 64), dtype=np.float32)
    times = []
    for call in range(220):
        start = time.perf_counter()
        predict(x)
        if call >= 20:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def accuracy(predict: Predict, x: Tensor, y: Tensor) -> float:
    """Share of test images recognized."""
    return float((predict(x.numpy()).argmax(1) == y.numpy()).mean())


def torch_bytes(model: nn.Module) -> int:
    """Size of the saved ``state_dict``."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell()


def trainable(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def main() -> None:
    """Run the path and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("digits.onnx"), help="the ONNX file to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(2)
    x, x_test, y, y_test = digits(arguments.seed)

    dense = mlp()
    plan = kx.plan(dense, rank=4, block={"0": (16, 8), "2": (16, 16), "4": (2, 16)})
    print(plan, "\n")
    factored = kx.factorize(dense, plan)
    train(dense, x, y, None)
    train(factored, x, y, TARGET)
    folded = kx.fold(factored)
    # Of the factored model itself: its file keeps the factors where they are smaller than the surviving blocks.
    report = kx.export_onnx(factored, arguments.out, x[:8], batch_sizes=BATCH_SIZES)
    print(kx.inspect(folded), "\n")
    print(report, "\n")

    table = Table(title=f"handwritten digits, {len(y_test)} test images, seed {arguments.seed}, 2 threads")
    for header in (
        "",
        "trainable parameters",
        "test accuracy",
        "zero blocks",
        "bytes",
        "batch 1",
        "batch 256",
    ):
        table.add_column(header, justify="left" if not header else "right", no_wrap=True)
    zero = kx.inspect(folded)
    blocks = f"{zero.zero_blocks}/{zero.blocks} = {zero.zero_blocks / zero.blocks:.1%}"
    for name, predict, model, size in (
        ("dense", in_torch(dense), dense, torch_bytes(dense)),
        ("factored", in_torch(factored), factored, torch_bytes(factored)),
        ("folded", in_torch(folded), folded, torch_bytes(folded)),
        ("ONNX", in_onnxruntime(arguments.out), None, report.bytes),
    ):
        table.add_row(
            name,
            f"{trainable(model):,}" if model is not None else "-",
            f"{accuracy(predict, x_test, y_test):.2%}",
            "0" if name == "dense" else blocks,
            f"{size:,}",
            *(f"{1e6 * latency(predict, batch):.0f} us" for batch in (1, 256)),
        )
    Console(width=110).print(table)
    print(f"the ONNX file: {arguments.out.resolve()}")


if __name__ == "__main__":
    main()
