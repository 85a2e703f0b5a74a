"""Learning rates a factor: what the rate of the dense model comes to for its factored one.

A stacked factor is a batch of maps from ``d_in`` to ``d_out`` features (``stacked.fans``), a dense layer one from ``n``
to ``m``. Adam moves every entry by about its rate, hence an output by about ``d_in`` times that. A factor has fewer
inputs than its layer, and its rate may be ``n / d_in`` times as high (Qiu et al., arXiv 2406.06248, for a start of unit
gain, whose deviation is ``u = d_in^-1/2 min(1, (d_out / d_in)^1/2)``). Where it starts otherwise the rate follows: with
one factor ten times as large and its partner a tenth, ``W`` is the same, and so is a step ten times as long.

How that was measured, and what lost: ``kronfx/decisions/rates.md``; that they need no rescaling:
``kronfx/decisions/stability.md``.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kronfx.errors import TrainError
from kronfx.layers import KroneckerLinear, kronecker_layers, require_module
from kronfx.train.course.stepper import TINY
from kronfx.train.optimizers.stacked import fans
from kronfx.train.options import is_number
from kronfx.train.parts.tensors import whole
from kronfx.train.unfactored import unfactored

Like = Literal["adam", "sgd"]

GAIN = 1.1  # at rank 1, measured; with the fourth root of the rank: kronfx/decisions/rates.md. Qiu et al. have 1/2
LONGEST = 0.15  # of a factor's root mean square: Adam's longest step. Few inputs do not bear more, whatever the rule


def param_groups(
    model: nn.Module, lr: float, *, like: Like = "adam", weight_decay: float = 0.0, rest: float | None = None
) -> list[dict[str, Any]]:
    """Parameter groups of a factored model for the learning rate ``lr`` that its dense model is trained with.

    ::

        optimizer = torch.optim.AdamW(kx.train.param_groups(model, lr=1e-3, weight_decay=0.01))

    With ``a`` and ``b`` the root mean squares of ``A`` and ``B`` now (a zero-started factor counts as its partner), and
    ``u(d_in, d_out) = d_in^-1/2 min(1, (d_out / d_in)^1/2)``:

    - ``like="adam"``, for optimizers whose step does not see the gradient's scale (Adam, AdamW, Lion, Adafactor): ``A``
      gets ``1.1 r^1/4 lr (n / d_A) (a / u_A)``, ``B`` gets ``1.1 r^1/4 lr (n / d_B) (b / u_B)``, at most
      ``0.15 a`` and ``0.15 b``;
    - ``like="sgd"``: ``A`` gets ``lr / (m2 n2 b^2)`` and ``B`` gets ``lr / (m1 n1 a^2)``, which move ``W`` along its
      gradient's projection by ``lr`` each.

    ``S`` gets ``lr``, and so do weights that stayed dense, an embedding that is tied to a head among them. What has no
    inputs to add up (other embeddings, biases, norms) gets ``rest``; left out, under Adam ``lr`` times the geometric
    mean of the factors' multiples: in a dense model such parameters go at the rate that its matrices bear, which is not
    what bounds them here. Pass ``rest=lr`` for a model that is only tuned. ``weight_decay`` is that of the dense model:
    where it is decoupled it acts through the rate, and is divided by what the rate was multiplied by.

    The groups are torch's own, two a layer and three for everything else, in the order of the model. They carry
    ``name``s, for people. Build them after ``kronfx.factorize``, and again after another ``init``.

    Raises TrainError: a model without factors, a rate or decay that is no finite number of 0 or more, factors on the
    meta device or not finite.
    """
    _require(lr, weight_decay, rest, like)
    require_module(model, TrainError)
    layers = kronecker_layers(model)
    if not layers:
        raise unfactored()
    factors = [(name, letter, f) for name, x in layers.items() for letter, f in (("A", x.A), ("B", x.B))]
    multiples = [multiple for name, layer in layers.items() for multiple in _MULTIPLES[like](name, layer, lr)]
    mean = math.exp(sum(map(math.log, multiples)) / len(multiples)) if like == "adam" else 1.0
    S = [layer.S for layer in layers.values()]
    plain, free = _others(model, {*S, *(factor for _, _, factor in factors)})
    wanted = [(f"{name}.{letter}", [factor], lr * k, k) for (name, letter, factor), k in zip(factors, multiples)]
    wanted += [("S", S, lr, 1.0), ("dense", plain, lr, 1.0)]
    wanted += [("rest", free, lr * mean, mean) if rest is None else ("rest", free, rest, 1.0)]
    groups = [_group(name, params, rate, weight_decay / k) for name, params, rate, k in wanted]
    return [group for group in groups if group["params"]]


def _adam(name: str, layer: KroneckerLinear, lr: float) -> list[float]:
    """Of ``A`` and of ``B``: what their rates are of ``lr``."""
    n, gain = layer.grid.n, GAIN * layer.rank**0.25
    sides = zip(_scales(name, layer), fans(layer))
    return [
        scale * min(gain * n / d_in / _unit(d_in, d_out), LONGEST / max(lr, TINY)) for scale, (d_in, d_out) in sides
    ]


def _sgd(name: str, layer: KroneckerLinear, _lr: float) -> list[float]:
    """Of ``A`` and of ``B``: what their rates are of ``lr``."""
    a, b = _scales(name, layer)
    shape = layer.grid
    return [1 / (shape.m2 * shape.n2 * b**2), 1 / (shape.m1 * shape.n1 * a**2)]


_MULTIPLES = {"adam": _adam, "sgd": _sgd}


def _scales(name: str, layer: KroneckerLinear) -> tuple[float, float]:
    """Root mean squares of ``A`` and ``B``; a factor of zeros counts as its partner."""
    a, b = (_rms(factor) for factor in (layer.A, layer.B))
    if not (math.isfinite(a) and math.isfinite(b) and a + b > 0):
        where = f"{name} ({layer.out_features}x{layer.in_features})"
        found = f"factors of root mean square {a:.3g} and {b:.3g}"
        raise TrainError(where, found, "finite factors, one of them not zero", "load or draw the factors first")
    return a or b, b or a


def _rms(factor: Tensor) -> float:
    if factor.is_meta:
        return math.nan
    norm = torch.linalg.vector_norm(whole(factor.detach()), dtype=torch.promote_types(factor.dtype, torch.float32))
    return float(norm) / math.sqrt(factor.numel())


def _unit(d_in: int, d_out: int) -> float:
    return min(1.0, math.sqrt(d_out / d_in)) / math.sqrt(d_in)


def _others(model: nn.Module, factors: set[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """What is no factor: weights that add inputs up, and what has none (embeddings, and all of one dimension).

    An embedding that is tied to a head is that head's matrix too.
    """
    holders: Counter[Tensor] = Counter(p for module in model.modules() for p in module.parameters(recurse=False))
    tables = (m.weight for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)))
    free = {table for table in tables if holders[table] == 1}
    others = [p for p in model.parameters() if p not in factors]
    return [p for p in others if p.ndim > 1 and p not in free], [p for p in others if p.ndim < 2 or p in free]


def _group(name: str, parameters: list[nn.Parameter], rate: float, decay: float) -> dict[str, Any]:
    return {"name": name, "params": [p for p in parameters if p.requires_grad], "lr": rate, "weight_decay": decay}


def _require(lr: object, weight_decay: object, rest: object, like: object) -> None:
    for option, value in (("lr", lr), ("weight_decay", weight_decay), ("rest", lr if rest is None else rest)):
        if not (is_number(value) and 0 <= value < math.inf):
            raise TrainError("", f"{option}={value!r}", f"a finite {option} of 0 or more", "pass the dense model's")
    if like not in get_args(Like):
        raise TrainError("", f"like={like!r}", "'adam' or 'sgd'", "choose how the optimizer's steps scale")
