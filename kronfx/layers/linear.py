"""The factored and the folded linear layer, as modules."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronfx import kron
from kronfx.errors import GraphError
from kronfx.layers.by_hand import applied
from kronfx.layers.factors import Factors
from kronfx.layers.formed import formed
from kronfx.layers.pattern import Pattern
from kronfx.layers.portions import PORTIONED, is_worth_turning
from kronfx.layers.precision import unwatched, without_autocast
from kronfx.layers.skipping import Skipping, skipped
from kronfx.layers.weight import formed_weight
from kronfx.layers.writes import computed, refuse, require_factors
from kronfx.records import Evaluation, KroneckerShape

EVALUATE = {"a_first": kron.a_first, "b_first": kron.b_first}
STACKED = {"a_first": kron.stacked_a_first, "b_first": kron.stacked_b_first}


def evaluated(
    x: Tensor,
    factors: Factors,
    grid: KroneckerShape,
    rank: int,
    evaluation: Evaluation,
    stacked: bool = False,
    bias: Tensor | None = None,
) -> Tensor:
    """``x [..., n] -> x W^T + bias [..., m]``; where the factors are ``stacked``, ``x [*stack, N, n]``."""
    if not stacked and evaluation == "materialize":
        return formed(x, factors, bias)
    if not stacked and is_worth_turning(x, factors, evaluation, bias):
        return applied(PORTIONED[evaluation], x, factors, bias)
    y = _product(x, factors, grid, rank, evaluation, stacked)
    # Under autocast the products are half precision while the bias is not: the sum stays in theirs, as F.linear's.
    return y if bias is None else y + bias.to(y.dtype)


def _product(
    x: Tensor, factors: Factors, grid: KroneckerShape, rank: int, evaluation: Evaluation, stacked: bool
) -> Tensor:
    """``x W^T`` in torch's operations: a padded shape gets zeros for its surplus columns and loses its surplus rows."""
    if evaluation == "materialize":
        return torch.matmul(x, factors.materialize().mT)
    features = factors.features
    x = x if features is None else F.pad(x, (0, grid.n - features[1]))
    S, A, B = factors.S, factors.A, factors.B
    y = STACKED[evaluation](x, S, A, B, grid) if stacked else EVALUATE[evaluation](x, S, A, B, grid, rank)
    return y if features is None else y[..., : features[0]].contiguous()


class KroneckerLinear(nn.Module):
    """``y [..., m] = x [..., n] W^T + bias`` with ``W = sum_i (S * A_i) kron B_i`` (paper, Eq. 3), never formed
    unless the evaluation says so.

    It answers ``weight``, ``in_features`` and ``out_features`` as the layer it replaces did; ``weight`` is computed
    at each reading, so writing into it raises WeightError. With a ``stack`` of leading axes (experts) every factor,
    ``W`` and ``x [*stack, N, n]`` have them too. A padded layer has ``features = (m, n)`` smaller than its blocks make:
    ``x`` gets zeros for the surplus columns, ``y`` loses the surplus rows, and so does ``W``.
    """

    bias: nn.Parameter | None
    skipping: Skipping | None = None  # in place of the evaluation, while there are zeros that it pays to skip
    energy: float | None = None  # ||W_nearest||_F^2 / ||W||_F^2 of the weight that set_nearest took
    predicted_seconds: float | None = None  # of a training step: by the plan, or by kronfx.tune,
    measured_seconds: float | None = None  # which measured it where the prediction was too close to call

    def __init__(
        self,
        shape: KroneckerShape,
        rank: int,
        evaluation: Evaluation,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        stack: tuple[int, ...] = (),
        features: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.rank, self.evaluation, self.stack = shape, rank, evaluation, stack
        self.features = features
        self.S = nn.Parameter(torch.empty(*stack, shape.m1, shape.n1, device=device, dtype=dtype))
        self.A = nn.Parameter(torch.empty(*stack, rank, shape.m1, shape.n1, device=device, dtype=dtype))
        self.B = nn.Parameter(torch.empty(*stack, rank, shape.m2, shape.n2, device=device, dtype=dtype))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(self.out_features, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw everything anew, as ``nn.Linear`` does: random factors, and a bias uniform within ``1 / sqrt(n)``."""
        self.reset_factors()
        if self.bias is not None:
            nn.init.uniform_(self.bias, -1 / math.sqrt(self.in_features), 1 / math.sqrt(self.in_features))

    @property
    def shape(self) -> Any:
        """The block grid, ``KroneckerShape``; of a layer that stands for a weight, the weight's shape."""
        return self.grid

    @torch.no_grad()
    def reset_factors(self, std: float | None = None) -> None:
        """Draw random factors: ``S = 1``, and every block of ``W`` with a root mean square of exactly ``std``.

        ``A`` and ``B`` are normal at first, which gives ``W`` the variance ``r Var A Var B`` on average only: at rank 1
        and few blocks single draws are off by their own size, and some blocks start near zero for no reason. So every
        ``B_i`` is scaled to the root mean square ``sqrt(std) / r^(1/4)``, then every block's coefficients
        ``a = A[:, p, j]`` such that ``||block||_F^2 = a^T G a``, ``G_il = <B_i, B_l>``, is ``m2 n2 std^2``. Outputs
        have the dense layer's variance, at any shape and rank. The default is ``nn.Linear``'s, ``1 / sqrt(3 n)``.

        One learning rate serves all factors; that, and how they are drawn: ``kronfx/decisions/random_factors.md``.
        """
        std = 1 / math.sqrt(3 * self.in_features) if std is None else std
        entries = math.prod(self.grid.block)
        precise = torch.promote_types(self.B.dtype, torch.float32)
        A, B = (_normal(factor, precise) for factor in (self.A, self.B))
        B *= math.sqrt(entries * std) / self.rank**0.25 / torch.linalg.vector_norm(B, dim=(-2, -1), keepdim=True)
        gram = torch.einsum("...iqk,...lqk->...il", B, B)
        squares = torch.einsum("...ipj,...il,...lpj->...pj", A, gram, A)
        A *= (math.sqrt(entries) * std * squares.rsqrt()).unsqueeze(-3)
        nn.init.ones_(self.S)
        self.A.copy_(A)
        self.B.copy_(B)

    @property
    def last_factor(self) -> nn.Parameter:
        """The factor applied last: ``A`` of ``b_first``, else ``B``. ``W`` is zero where it is."""
        return self.A if self.evaluation == "b_first" else self.B

    @torch.no_grad()
    def set_nearest(self, W: Tensor) -> None:
        """Set the factors to the nearest ones of ``W [m, n]``: exact at full rank (see ``kron.nearest_factors``).

        ``energy`` is the share of ``||W||_F^2`` that they keep: the rest of ``W`` is orthogonal to them.
        """
        S, A, B = kron.nearest_factors(W, self.grid, self.rank)
        for parameter, value in zip((self.S, self.A, self.B), (S, A, B)):
            parameter.copy_(value.reshape(parameter.shape))
        whole = float(torch.linalg.vector_norm(W, dtype=torch.promote_types(W.dtype, torch.float32)))
        kept = float(torch.linalg.vector_norm(kron.materialize(S, A, B).float())) if whole else 1.0
        self.energy = min(1.0, (kept / (whole or 1.0)) ** 2)

    @property
    def in_features(self) -> int:
        """``n``."""
        return self.grid.n if self.features is None else self.features[1]

    @property
    def out_features(self) -> int:
        """``m``."""
        return self.grid.m if self.features is None else self.features[0]

    @property
    def factors(self) -> Factors:
        """The live factors as one value."""
        return Factors(self.S, self.A, self.B, self.features)

    @property
    def weight(self) -> Tensor:
        """``W [m, n]``, materialized now; differentiable with respect to the factors."""
        with without_autocast():
            return computed(formed_weight(self.factors))

    @torch.no_grad()
    def zero_blocks(self) -> int:
        """How many blocks of ``W`` are exactly zero."""
        return self.blocks - int(kron.block_mask(self.factors.materialize(), self.grid).sum())

    @property
    def blocks(self) -> int:
        """How many blocks ``W`` has, those of a whole stack together."""
        return self.S.numel()

    def forward(self, x: Tensor) -> Tensor:
        """``x [..., n] -> [..., m]`` by the chosen evaluation; of a stack, ``x [*stack, N, n]``."""
        pattern = self._pattern(x)
        if pattern is not None:
            return skipped(x, self.factors, self.bias, pattern)
        # torch's own encoder hands nested tensors to its layers where a padding mask is given; only products take them.
        if isinstance(x, Tensor) and x.is_nested and not self.stack:
            return formed(x, self.factors, self.bias)
        return evaluated(x, self.factors, self.grid, self.rank, self.evaluation, bool(self.stack), self.bias)

    def skip_zeros(self, forced: bool = True) -> None:
        """From here on multiply, forward and backward, only the blocks that ``S`` has no zero for, in place of the
        planned evaluation; unless ``forced`` only where that is faster, which the next training step measures.

        Zeros of ``S`` get no gradient then, so they stay. Where ``S`` has others, as from a loaded checkpoint, it is
        looked at anew. Compilers, exporters and devices other than the CPU get the planned evaluation, and so do
        convolutions and stacks. ``layer.skipping = None`` ends it.
        """
        self.skipping = Skipping(forced)

    @property
    def running(self) -> str:
        """The evaluation that runs: the planned one, or the blocks that are multiplied in its place."""
        return (str(self.skipping) if self.skipping is not None else "") or self.evaluation

    def _pattern(self, x: Tensor) -> Pattern | None:
        """The survivors, where only they are to be multiplied."""
        if self.skipping is None or self.stack:
            return None
        given = [x, self.S, self.A, self.B, *([] if self.bias is None else [self.bias])]
        return self.skipping.pattern_for(x, self.factors, self._planned) if unwatched(*given) else None

    def _planned(self, x: Tensor, factors: Factors) -> Tensor:
        return evaluated(x, factors, self.grid, self.rank, self.evaluation)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles look for themselves."""
        return {name: value for name, value in vars(self).items() if name != "skipping"}

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As every module's, but that ``weight`` is computed. Raises WeightError."""
        if name == "weight":
            refuse("__set__")
        super().register_parameter(name, param)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool, missing: list[str],
        unexpected: list[str], errors: list[str],
    ) -> None:  # fmt: skip
        require_factors(state_dict, f"{prefix}weight", errors)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)

    def __prepare_scriptable__(self) -> NoReturn:
        """Asked by ``torch.jit.script``, which takes neither the products nor a weight that is computed."""
        found, remedy = "torch.jit.script of a factored layer", "call kx.fold(model) first, or use torch.jit.trace"
        raise GraphError("", found, "layers of torch's own", remedy)

    def extra_repr(self) -> str:
        """Shape, rank and evaluation, for ``print(model)``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, blocks={self.grid}, "
            f"rank={self.rank}, evaluation={self.running}, bias={self.bias is not None}"
            + ("" if self.energy is None else f", energy={self.energy:.1%}")
        )


def _normal(factor: Tensor, dtype: torch.dtype) -> Tensor:
    """Normal numbers in the factor's shape, none of them zero.

    ``torch.randn`` draws exact zeros, and at rank 1 no block of zeros can be scaled to a norm:
    ``kronfx/decisions/random_factors.md``.
    """
    drawn = torch.randn_like(factor, dtype=dtype)
    return drawn.masked_fill_(drawn == 0, 1.0)
