"""LeNet-5 on MNIST: train its three linear layers factored, to block sparsity, then fold them and run the ONNX file.

    python examples/mnist_lenet.py --data FOLDER

The setting of the paper's Table 1, first row: rank 5, blocks 8x16, 4x8 and 2x4 (output rows first).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import mnist
import onnxruntime as ort
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

import kronfx as kx

RANK = 5
BLOCKS = {"fc1": (8, 16), "fc2": (4, 8), "fc3": (2, 4)}
BATCH, LEARNING_RATE, TARGET = 128, 1e-2, 0.6


class LeNet5(nn.Module):
    """61,706 parameters, 58,920 of them weights of the three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[N, 1, 28, 28]`` to logits ``[N, 10]``."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2).flatten(1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Adam with a one-cycle schedule; blocks vanish up to the target on the way, then the accuracy recovers."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    steps = epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.2)
    sparsity = kx.train.BlockSparsity(model, target=TARGET, optimizer=optimizer, steps=steps)
    with Progress() as progress:
        bar = progress.add_task("training", total=steps)
        for epoch in range(epochs):
            for batch in torch.randperm(len(images)).split(BATCH):
                loss = F.cross_entropy(model(images[batch]), labels[batch]) + sparsity.penalty()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                sparsity.step()
                schedule.step()
                progress.advance(bar)
            progress.update(bar, description=f"epoch {epoch + 1}, {sparsity.sparsity():.1%} of the blocks zero")


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """The digit of every image, in torch."""
    return torch.cat([model(batch).argmax(1) for batch in images.split(1000)])


def predict_onnx(path: Path, images: Tensor, threads: int) -> Tensor:
    """The digit of every image, in stock onnxruntime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    runs = (session.run(None, {name: batch.numpy()})[0] for batch in images.split(1000))
    return torch.cat([torch.from_numpy(logits).argmax(1) for logits in runs])


def trainable(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the four IDX files (default: data/mnist, downloaded)")
    parser.add_argument("--out", type=Path, default=Path("lenet.onnx"), help="the ONNX file to write")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="a second one slows layers this small on a busy machine")
    return parser.parse_args()


def main() -> None:
    """Train, fold, export, and print the table."""
    options = arguments()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    (images, labels), (test_images, test_labels) = mnist.load(options.data)

    dense = LeNet5()
    plan = kx.plan(dense, rank=RANK, block=BLOCKS, include="fc*")
    print(plan, "\n")
    factored = kx.factorize(dense, plan)
    start = time.perf_counter()
    train(factored, images, labels, options.epochs)
    seconds = time.perf_counter() - start

    folded = kx.fold(factored.eval())
    report = kx.export_onnx(folded, options.out, test_images[:8])
    digits = {
        "trained": predict(factored, test_images),
        "folded": predict(folded, test_images),
        "ONNX": predict_onnx(options.out, test_images, options.threads),
    }
    agree = int((digits["folded"] == digits["ONNX"]).sum())
    blocks = kx.inspect(folded)

    table = Table("", "", title=f"LeNet-5, MNIST, {options.epochs} epochs, seed {options.seed}", show_header=False)
    for name, found in digits.items():
        table.add_row(f"test accuracy, {name}", f"{(found == test_labels).float().mean():.2%}")
    zero = f"{blocks.zero_blocks} of {blocks.blocks} = {blocks.zero_blocks / blocks.blocks:.2%}"
    table.add_row("zero blocks of the linear layers", zero)
    table.add_row("trainable parameters, dense", f"{trainable(dense):,}")
    table.add_row("trainable parameters, factored", f"{trainable(factored):,}")
    table.add_row("bytes of the ONNX file", f"{report.bytes:,}")
    table.add_row("seconds of training", f"{seconds:.0f} at --threads {options.threads}")
    table.add_row("folded and ONNX agree on", f"{agree:,} of {len(test_labels):,} test images")
    Console().print(table)


if __name__ == "__main__":
    main()
