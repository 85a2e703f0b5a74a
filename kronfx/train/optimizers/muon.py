"""Orthogonalized momentum on the factors: Muon's step (Jordan et al. 2024), measured on ``W`` and not on a factor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kronfx.errors import TrainError
from kronfx.layers import kronecker_layers, require_module
from kronfx.train.optimizers.stacked import Stacking, stacking
from kronfx.train.options import is_number
from kronfx.train.parts.tensors import placed, whole
from kronfx.train.unfactored import unfactored

QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's: of X, of (X X^T) X and of (X X^T)^2 X; as steep at zero as they come
ITERATIONS = 5
FLOOR = 0.25  # of a factor's own norm: the least that its partner's counts as
EMPTY = 1e-30  # stands in for a norm of 0 below a fraction


class KroneckerMuon(Optimizer):
    """Muon for the factors ``A`` and ``B`` of every layer; any other optimizer steps the rest.

    ::

        muon = kx.train.KroneckerMuon(model, lr=0.02)
        adamw = torch.optim.AdamW(muon.rest(model), lr=1e-3)

    An evaluation multiplies by *stacked* factors: ``a_first`` by ``A_s [m1 r, n1]`` and ``B_s [m2, r n2]``, ``b_first``
    by ``A_s [m1, n1 r]`` and ``B_s [r m2, n2]``. Each takes the orthogonalized step of its own momentum ``M``, over the
    spectral norm of the other before the step, so that ``W`` moves by about ``lr`` in the spectral norm, half of it
    from either side:

        ``M <- momentum M + g``, ``U = NS(g + momentum M)``, ``c = sqrt(max(1, m / n))``,
        ``A_s <- A_s - (lr / 2) c U_A / |B_s|``, ``B_s <- B_s - (lr / 2) c U_B / |A_s|``,

    ``NS`` being five steps of the quintic Newton-Schulz iteration. A factor that started at zero has no norm to divide
    by, and would throw its partner about as soon as it has a small one: a divisor is at least a quarter of the norm of
    what it divides the step of. ``S`` is at rest here: it belongs to the ``rest``, where penalties find its rate.

    ``lr`` is no rate of Adam's: 0.02 and 0.04 were tried, at width 128 (``kronfx/decisions/muon.md``). ``weight_decay``
    is decoupled, ``W <- (1 - lr weight_decay) W``, half of it from either factor. In the place of the model there may
    be parameter groups, each with a module as its ``params``: ``[{"params": model.encoder, "lr": 0.04}, ...]``. What
    FSDP2 keeps in shards is gathered for its step, layer by layer.

    Raises TrainError: a model without factors, a layer in two groups, an option that is no finite number of 0 or more.
    """

    def __init__(
        self,
        model: nn.Module | Iterable[Mapping[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        groups = [{"params": model}] if isinstance(model, nn.Module) else [dict(group) for group in model]
        super().__init__(_by_layer(groups), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for option in self.defaults:
                _require(option, group[option])

    def rest(self, model: nn.Module) -> list[nn.Parameter]:
        """The trainable parameters of ``model`` that this optimizer does not step, for another one."""
        mine = {id(parameter) for group in self.param_groups for parameter in group["params"]}
        return [p for p in model.parameters() if p.requires_grad and id(p) not in mine]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every layer whose factors have gradients. Returns what ``closure`` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            factors = iter(group["params"])
            for (A, B), layer in zip(zip(factors, factors), group["layers"]):
                if A.grad is not None and B.grad is not None:
                    self._step(A, B, Stacking(layer["evaluation"], layer["rank"]), layer["stretch"], group)
        return loss

    def _step(self, A: Tensor, B: Tensor, stack: Stacking, stretch: float, group: dict[str, Any]) -> None:
        half = group["lr"] / 2
        left, right = stack.of_A(whole(A)), stack.of_B(whole(B))
        norm_A, norm_B = spectral_norm(left), spectral_norm(right)
        U_A = orthogonalized(stack.of_A(whole(self._momentum(A, group["momentum"]))))
        U_B = orthogonalized(stack.of_B(whole(self._momentum(B, group["momentum"]))))
        for factor, matrix, divisor, returned in (
            (A, U_A, torch.maximum(norm_B, FLOOR * norm_A), stack.to_A),
            (B, U_B, torch.maximum(norm_A, FLOOR * norm_B), stack.to_B),
        ):
            move = returned(matrix * (half * stretch / divisor.clamp_min(EMPTY))[..., None, None])
            factor.mul_(1 - half * group["weight_decay"]).sub_(placed(move.reshape(factor.shape), factor))

    def _momentum(self, factor: Tensor, momentum: float) -> Tensor:
        """``g + momentum M`` after ``M <- momentum M + g`` (Nesterov's)."""
        gradient = cast(Tensor, factor.grad)
        state = self.state[factor]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"].mul_(momentum).add_(gradient)
        nesterov: Tensor = gradient + momentum * buffer
        return nesterov


def orthogonalized(G: Tensor) -> Tensor:
    """About ``U V^T`` of ``G [..., d_out, d_in] = U diag(s) V^T``: all singular values that are not below a thousandth
    of their norm come to 0.68 to 1.14. A zero matrix stays. Float32 at least."""
    X = G.to(torch.promote_types(G.dtype, torch.float32))
    wide = X.shape[-2] <= X.shape[-1]
    X = X if wide else X.mT
    X = X / torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True).clamp_min(EMPTY)
    linear, cubic, quintic = QUINTIC
    for _ in range(ITERATIONS):
        gram = X @ X.mT
        X = linear * X + (cubic * gram + quintic * gram @ gram) @ X
    result: Tensor = X if wide else X.mT
    return result


def spectral_norm(M: Tensor) -> Tensor:
    """The largest singular value of ``M [..., d_out, d_in]``, at most ``k^(1/16)`` too large, ``k`` the smaller side.

    The 16-norm of all ``k`` of them, by three products of ``[k, k]``: nothing to start from and nothing to keep, where
    a power iteration has a vector.
    """
    X = M.to(torch.promote_types(M.dtype, torch.float32))
    gram = X @ X.mT if X.shape[-2] <= X.shape[-1] else X.mT @ X
    scale = torch.linalg.vector_norm(gram, dim=(-2, -1), keepdim=True).clamp_min(EMPTY)
    fourth = gram / scale
    for _ in range(2):
        fourth = fourth @ fourth
    norm: Tensor = scale[..., 0, 0].sqrt() * torch.linalg.vector_norm(fourth, dim=(-2, -1)) ** (1 / 8)
    return norm


def _by_layer(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Torch's groups: ``params`` are ``A`` and ``B`` of every layer in turn, ``layers`` what a step must know of it."""
    seen: dict[int, str] = {}
    with_params = []
    for group in groups:
        require_module(group.get("params"), TrainError)
        params: list[nn.Parameter] = []
        layers: list[dict[str, Any]] = []
        for name, layer in kronecker_layers(group["params"]).items():
            if id(layer) in seen:
                where, needed = f"{name} ({layer.out_features}x{layer.in_features})", "every layer in one group"
                raise TrainError(where, "a layer in two groups", needed, "take it out of one")
            seen[id(layer)] = name
            if layer.A.requires_grad and layer.B.requires_grad:
                stretch = math.sqrt(max(1.0, layer.out_features / layer.in_features))
                stack = stacking(layer)
                params += [layer.A, layer.B]
                layers.append({"evaluation": stack.evaluation, "rank": stack.rank, "stretch": stretch})
        with_params.append({**group, "params": params, "layers": layers})
    if not seen:
        raise unfactored()
    return with_params


def _require(option: str, value: object) -> None:
    if not (is_number(value) and 0 <= value < math.inf):
        raise TrainError(
            "", f"{option}={value!r}", f"a finite {option} of 0 or more", "leave it out, or pass 0.02, say"
        )
