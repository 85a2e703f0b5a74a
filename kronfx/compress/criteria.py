"""What a block is worth, and so in which order the blocks of a map go: one function a criterion.

A criterion takes what is known of a map, its inputs and its output gradients, and returns the paths of its block rows.
To add one: its function, its row in ``CRITERIA``, its name in ``How``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kronfx import kron
from kronfx.compress.path import Path, block_squares, sorted_path, surgeon_path, weighed
from kronfx.records import KroneckerShape

How = Literal["obs", "energy", "fisher", "wanda", "magnitude"]


@dataclass(frozen=True, eq=False, slots=True)
class Known:
    """``W [m, n]``, the damped moments ``H [n, n]`` of the inputs, ``G [m1, m2, m2]`` of the output gradients."""

    W: Tensor
    H: Tensor
    G: Tensor
    grid: KroneckerShape


@dataclass(frozen=True, slots=True)
class Criterion:
    """``path``: the order and the costs; ``gradients``: whether it asks for ``G``; ``refits``: whether what is left is
    set anew."""

    path: Callable[[Known], Path]
    gradients: bool = False
    refits: bool = True


def _obs(known: Known) -> Path:
    """Optimal brain surgeon, what an output is worth to the loss included."""
    return surgeon_path(weighed(known.W, known.G, known.grid), known.H, known.grid)


def _energy(known: Known) -> Path:
    """Optimal brain surgeon, each map by the share of its output energy ``tr(W H W^T)``."""
    path = surgeon_path(known.W, known.H, known.grid)
    energy = ((known.W @ known.H) * known.W).sum()
    return Path(path.order, path.costs / energy.clamp_min(1e-300))


def _fisher(known: Known) -> Path:
    """Inputs and output gradients, the other blocks as they are: ``tr(F^T W_pj H_jj W_pj^T F)``."""
    rows = kron.blocks_of(weighed(known.W, known.G, known.grid), known.grid)
    surplus = known.grid.n - len(known.H)
    inputs = kron.blocks_of(
        F.pad(known.H, (0, surplus, 0, surplus)),
        KroneckerShape(known.grid.n1, known.grid.n1, known.grid.n2, known.grid.n2),
    ).diagonal(dim1=0, dim2=1)
    return sorted_path(torch.einsum("pjqk,klj,pjql->pj", rows, inputs, rows))


def _wanda(known: Known) -> Path:
    """Inputs alone, entry by entry: ``sum W_qk^2 H_kk`` (after Sun et al., 2023), a block at a time."""
    return sorted_path(block_squares(known.W * known.H.diagonal().sqrt(), known.grid))


def _magnitude(known: Known) -> Path:
    """The weight alone: ``||W_pj||^2``."""
    return sorted_path(block_squares(known.W, known.grid))


CRITERIA: dict[How, Criterion] = {
    "obs": Criterion(_obs, gradients=True),
    "energy": Criterion(_energy),
    "fisher": Criterion(_fisher, gradients=True),
    "wanda": Criterion(_wanda),
    "magnitude": Criterion(_magnitude, refits=False),
}
