"""The files that the inference benchmark compares: of one model, one pattern of zero blocks, every variant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import torch
from inference_models import (
    Shape,
    Workload,
    export_dense,
    maps,
    sparse_initializers,
    zero_blocks,
)
from torch import nn

import kronfx as kx
from kronfx.deploy.rivals import RUN, quantized


@dataclass(frozen=True)
class Case:
    """One model at one input shape: its dense file, and all others that are measured beside it.

    ``zero`` of the square blocks of ``block`` are zero; ``ranks`` are those of the factored models.
    """

    workload: Workload
    shape: Shape
    zero: float
    block: int
    ranks: tuple[int, ...] = ()

    @property
    def size(self) -> str:
        """The input's shape, as a person writes it."""
        return "x".join(map(str, self.shape))

    @property
    def label(self) -> str:
        """What names the case."""
        return f"{self.workload.name} {self.size} {self.zero:.0%} {self.block}x{self.block}"

    @property
    def rows(self) -> int:
        """The number of rows that the linear maps see."""
        return self.workload.rows[self.shape]


@dataclass(frozen=True)
class File:
    """One variant's file, and the model that says what it should compute.

    ``least_bytes`` are those of the surviving weights and everything else in the model. ``refusal`` says why there is
    no file, where there is none.
    """

    variant: str
    path: Path
    least_bytes: int
    model: nn.Module
    zero: float
    rank: int | None = None
    refusal: str = ""


@dataclass(frozen=True)
class Source:
    """A model with zero blocks, ``removed`` entries in all, its dense file and that one in 8 and 4 bits."""

    model: nn.Module
    removed: int
    dense: Path
    int8: Path
    int4: Path


@lru_cache(maxsize=1)
def source(workload: Workload, zero: float, block: int, folder: Path) -> Source:
    """The one that all variants start from; it lies in the folder until the next one takes its place."""
    torch.manual_seed(0)
    model = workload.build().eval()
    removed = zero_blocks(model, (block, block), zero)
    dense = export_dense(model, workload, folder / "dense.onnx")
    int8, int4 = folder / "dense int8.onnx", folder / "dense int4.onnx"
    return Source(model, removed, dense, quantized("int8", dense, int8), quantized("int4", dense, int4))


def files(case: Case, folder: Path) -> Iterator[File]:
    """Every variant's file, the dense one first."""
    start = source(case.workload, case.zero, case.block, folder)
    dense, int8, int4 = (path.stat().st_size for path in (start.dense, start.int8, start.int4))
    masked = partial(File, model=start.model, zero=case.zero)
    yield masked("dense", start.dense, dense)
    yield masked("dense int8", start.int8, int8)
    yield masked("dense int4", start.int4, int4)

    def variant(name: str, least_bytes: int, make: Callable[[Path], object]) -> File:
        return _made(masked(name, folder / f"{name}.onnx", least_bytes), make)

    lowered = partial(kx.sparsify_onnx, start.dense, verify=False)  # the benchmark compares the outputs itself
    # What is chosen by the clock is held against its source as a whole, which is part of verifying it.
    tuned = partial(kx.sparsify_onnx, rows=(case.rows,), example_inputs={"x": torch.randn(case.shape).numpy()})
    least, least8 = dense - 4 * start.removed, int8 - start.removed
    least4 = int4 - (0 if case.block % RUN else round(start.removed * (1 / 2 + 4 / RUN)))  # entries, and scales
    yield variant("sparse_initializer", least, partial(sparse_initializers, start.dense))
    yield variant("kronfx dense", least, partial(lowered, lowering="dense"))
    yield variant("kronfx blocks", least, partial(lowered, lowering="blocks"))
    yield variant("kronfx auto", least, partial(tuned, start.dense))
    yield variant("kronfx auto + int8", least8, partial(tuned, start.int8))
    yield variant("kronfx auto + int4", least4, partial(tuned, start.int4))
    for rank in case.ranks:
        yield from _factored(case, rank, start, folder)


def _factored(case: Case, rank: int, start: Source, folder: Path) -> Iterator[File]:
    """The model with new factors in the place of all its linear maps: no weight of the dense one is left in it.

    Nothing where no map can be cut into such blocks.
    """
    block, area = (case.block, case.block), case.block**2
    weights = maps(start.model, block)
    if not weights:
        return
    options = {"block": block, "rank": rank, "rows": case.rows}
    model = kx.factorize(start.model, include=list(weights), zero_start=None, **options).eval()  # zeros cost nothing
    removed = sum(W.numel() - rank * (W.numel() // area + area) for W in weights.values())
    least = start.dense.stat().st_size - 4 * removed
    for lowering in ("factors", "auto"):
        file = File(f"kronfx {lowering}", folder / f"{lowering} {rank}.onnx", least, model, 0.0, rank)
        yield _made(file, partial(_export, model, case, lowering))


def _export(model: nn.Module, case: Case, lowering: str, path: Path) -> None:
    kx.export_onnx(
        model,
        path,
        case.workload.example(case.shape),
        lowering=lowering,
        rows=(case.rows,),
        dynamic_shapes=case.workload.dynamic_shapes,
        batch_sizes=case.shape[:1],
    )


def _made(file: File, make: Callable[[Path], object]) -> File:
    """The file, made; or with the reason why there is none, which is a result like any other."""
    try:
        make(file.path)
    except kx.KronfxError as error:
        return replace(file, refusal=str(error))
    return file
