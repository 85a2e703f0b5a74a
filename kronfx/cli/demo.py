"""``kronfx demo``: the whole path on real data in under a minute, to read and to run.

Scikit-learn's bundled handwritten digits (1,797 images of 8x8), an MLP of three linear layers trained dense and
factored with the same optimizer care. The table it prints is the answer; the ONNX file and the page are the product.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn

import kronfx as kx
from kronfx.cli.verb import Answer
from kronfx.deploy.prove.verify import session
from kronfx.errors import KronfxError
from kronfx.files import destination
from kronfx.progress import bar
from kronfx.tables import Shown, percent, render

EPOCHS, BATCH, LEARNING_RATE, TARGET = 40, 64, 1e-2, 0.7
BATCH_SIZES = (1, 7, 256)
Array = np.ndarray[Any, Any]
Predict = Callable[[Array], Array]
Digits = tuple[Tensor, Tensor, Tensor, Tensor]

File = Annotated[Path, typer.Option("--out", metavar="FILE.onnx", help="The ONNX file to write.")]
Page = Annotated[Path, typer.Option("--html", metavar="PAGE.html", help="The page to write of it.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of the split, the weights and the batches.")]


class DemoError(KronfxError):
    """What the demo takes is not here."""

    stage = "demo"


@dataclass(frozen=True, slots=True)
class Row:
    """One form of the model: trainable ``parameters``, the share of test images recognized, zero ``blocks`` of all,
    ``bytes`` on disk, and median microseconds of a call with 1 and with 256 rows."""

    name: str
    parameters: int | None
    accuracy: float
    zero_blocks: int
    blocks: int
    bytes: int
    microseconds: tuple[float, float]


def demo(out: File = Path("digits.onnx"), html: Page = Path("digits.html"), seed: Seed = 0) -> Answer:
    """The whole path on handwritten digits, in a minute.

    Plan, factorize, train to zero blocks, fold, export, look. It takes scikit-learn, which has the digits, and leaves
    the ONNX file and a page of it.
    """
    for path in (out, html):
        destination(path, DemoError)
    x, x_test, y, y_test = digits(seed)
    torch.manual_seed(seed)

    dense = mlp()
    plan = kx.plan(dense, rank=4, block={"0": (16, 8), "2": (16, 16), "4": (2, 16)})
    factored = kx.factorize(dense, plan)
    train(dense, x, y, None)
    train(factored, x, y, TARGET)
    folded = kx.fold(factored)
    # Of the factored model itself: its file keeps the factors where they are smaller than the surviving blocks.
    report = kx.export_onnx(factored, out, x[:8], batch_sizes=BATCH_SIZES)
    looked = kx.inspect(folded)
    page = report.to_html(html)

    def row(name: str, predict: Predict, size: int, model: nn.Module | None = None) -> Row:
        zero = 0 if model is dense else looked.zero_blocks
        recognized = float((predict(x_test.numpy()).argmax(1) == y_test.numpy()).mean())
        microseconds = latency(predict, 1), latency(predict, 256)
        return Row(name, trainable(model), recognized, zero, looked.blocks, size, microseconds)

    rows = (
        row("dense", in_torch(dense), torch_bytes(dense), dense),
        row("factored", in_torch(factored), torch_bytes(factored), factored),
        row("folded", in_torch(folded), torch_bytes(folded), folded),
        row("ONNX", in_onnxruntime(out), report.bytes),
    )
    title = f"handwritten digits, {len(y_test)} test images, seed {seed}, {torch.get_num_threads()} threads"
    text: list[str | Shown] = [plan, looked, report, table(title, rows)]
    closing = f"the ONNX file: {out.resolve()}\nthe page: {page.resolve()}"
    return Answer([*text, closing], {"rows": [asdict(one) for one in rows], "export": report.to_dict()})


def mlp() -> nn.Sequential:
    """64 pixels to 10 digits through two hidden layers."""
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def digits(seed: int) -> Digits:
    """Training and test images (``[N, 64]`` in 0 ... 1) and labels, a quarter for the test, classes balanced."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        found, remedy = "scikit-learn is not installed", "pip install scikit-learn"
        raise DemoError("", found, "the digits that come with it", remedy) from None
    data = load_digits()
    images, labels = (data.data / 16).astype(np.float32), data.target.astype(np.int64)
    x, x_test, y, y_test = train_test_split(images, labels, test_size=0.25, random_state=seed, stratify=labels)
    return torch.from_numpy(x), torch.from_numpy(x_test), torch.from_numpy(y), torch.from_numpy(y_test)


def train(model: nn.Module, x: Tensor, y: Tensor, target: float | None) -> None:
    """Adam with a one-cycle schedule; with a target, that share of blocks is driven to exactly zero on the way."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    steps = EPOCHS * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    sparsity = (
        None if target is None else kx.train.BlockSparsity(model, target=target, optimizer=optimizer, steps=steps)
    )
    with bar("training, dense" if target is None else "training, factored", EPOCHS) as begin:
        for epoch in range(EPOCHS):
            begin(f"epoch {epoch + 1}")
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

    def predict(x: Array) -> Array:
        with torch.no_grad():
            return model(torch.from_numpy(x)).numpy()  # type: ignore[no-any-return]

    return predict


def in_onnxruntime(path: Path) -> Predict:
    """An ONNX file as a function of arrays, in stock onnxruntime."""
    opened = session(path, spinning=True)
    name = opened.get_inputs()[0].name
    return lambda x: opened.run(None, {name: x})[0]


def latency(predict: Predict, batch: int) -> float:
    """Median microseconds of one call on random rows, warmed up."""
    x = np.random.default_rng(0).random((batch, 64), dtype=np.float32)
    times = []
    for call in range(220):
        start = time.perf_counter()
        predict(x)
        if call >= 20:
            times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def torch_bytes(model: nn.Module) -> int:
    """Size of the saved ``state_dict``."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell()


def trainable(model: nn.Module | None) -> int | None:
    """Trainable parameters."""
    return None if model is None else sum(p.numel() for p in model.parameters() if p.requires_grad)


def table(title: str, rows: tuple[Row, ...]) -> str:
    """The forms of the model side by side."""
    headers = ("", "trainable parameters", "test accuracy", "zero blocks", "bytes", "batch 1", "batch 256")
    body = [
        (
            *(row.name, row.parameters, f"{row.accuracy:.2%}", percent(row.zero_blocks, row.blocks), row.bytes),
            *(f"{time:.0f} us" for time in row.microseconds),
        )
        for row in rows
    ]
    return render(title, headers, body)
