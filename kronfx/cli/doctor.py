"""``kronfx doctor``: what is installed here, and what kronfx knows of this machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata

import torch

from kronfx.cli.verb import Answer
from kronfx.clock.cache import path, read
from kronfx.tables import Part, Shown

NEEDED = ("kronfx", "torch", "numpy", "scipy", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "safetensors", "typer")
WELCOME = ("transformers", "timm", "torchvision", "lightning", "accelerate", "scikit-learn", "openvino")
STOCK = "onnxruntime"


@dataclass(frozen=True, slots=True)
class Health(Shown):
    """Versions by name (None: not installed), threads, which package is the ``runtime``, and the kept rates if any."""

    python: str
    machine: str
    needed: dict[str, str | None]
    welcome: dict[str, str | None]
    threads: int
    cores: int
    runtime: tuple[str, ...]
    cache: str
    rates: str | None

    @property
    def is_stock(self) -> bool:
        """onnxruntime comes from the package of that name, and no other one writes over it."""
        return self.runtime == (STOCK,)

    def shown(self) -> Iterable[Part]:
        """What is printed: a line a fact."""
        stock = "the stock one" if self.is_stock else f"not the stock one: it comes from {' and '.join(self.runtime)}"
        rates = self.rates or "none kept yet: kronfx plan measures them, in two seconds"
        lines = {
            "python": f"{self.python}, {self.machine}",
            "needed": _listed(self.needed),
            "welcome": _listed(self.welcome),
            "onnxruntime": stock,
            "threads": f"{self.threads} of torch on {self.cores} cores",
            "rates": rates,
            "kept in": self.cache,
        }
        yield "\n".join(f"{name:<12} {text}" for name, text in lines.items())


def _listed(versions: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())


def doctor() -> Answer:
    """What is installed here, and what kronfx has measured."""
    threads = torch.get_num_threads()
    rates = read(path(threads))
    found = Health(
        python=platform.python_version(),
        machine=platform.platform(),
        needed={name: version(name) for name in NEEDED},
        welcome={name: version(name) for name in WELCOME},
        threads=threads,
        cores=os.cpu_count() or 1,
        runtime=tuple(sorted(set(metadata.packages_distributions().get(STOCK, [])))),
        cache=str(path(threads)),
        rates=None if rates is None else str(rates),
    )
    return Answer(found, {**asdict(found), "is_stock": found.is_stock})


def version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
