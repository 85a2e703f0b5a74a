"""Independent truths the tests compare with: nothing here calls the code under test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kronfx.layers import KroneckerLinear

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class RandomFactors:
    """``S [m1, n1]``, ``A [r, m1, n1]``, ``B [r, m2, n2]`` in one dtype."""

    S: Tensor
    A: Tensor
    B: Tensor

    def exact(self) -> RandomFactors:
        """The same values in float64, the precision of the oracles."""
        return RandomFactors(self.S.double(), self.A.double(), self.B.double())


def random_factors(
    dims: tuple[int, int, int, int], rank: int, dtype: torch.dtype = torch.float64, seed: int = 0, zeros: float = 0.3
) -> RandomFactors:
    """Normal factors of shape ``dims = (m1, n1, m2, n2)``; a share ``zeros`` of the entries of ``S`` is exactly 0."""
    m1, n1, m2, n2 = dims
    generator = torch.Generator().manual_seed(seed)
    S = torch.randn(m1, n1, generator=generator, dtype=torch.float64)
    S[torch.rand(m1, n1, generator=generator) < zeros] = 0
    A = torch.randn(rank, m1, n1, generator=generator, dtype=torch.float64)
    B = torch.randn(rank, m2, n2, generator=generator, dtype=torch.float64)
    return RandomFactors(S.to(dtype), A.to(dtype), B.to(dtype))


def random_input(leading: tuple[int, ...], n: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    """Normal ``x [*leading, n]``."""
    return torch.randn(*leading, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def dense(S: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """``W [m, n] = sum_i (S * A_i) kron B_i`` by ``torch.kron``, term by term."""
    W = torch.kron(S * A[0], B[0])
    for A_i, B_i in zip(A[1:], B[1:], strict=True):
        W = W + torch.kron(S * A_i, B_i)
    return W


def summed(candidates: Iterable[RandomFactors]) -> Tensor:
    """``sum_k W^(k)``, of anything with factors ``S``, ``A``, ``B``."""
    return torch.stack([dense(x.S.detach(), x.A.detach(), x.B.detach()) for x in candidates]).sum(dim=0)


def rearrangement(W: Tensor, m2: int, n2: int) -> np.ndarray:
    """``R(W) [m1 n1, m2 n2]``: row ``p n1 + j`` is block ``(p, j)`` of ``W``, cut out one by one, in float64."""
    array = W.detach().double().numpy()
    m, n = array.shape
    return np.stack([array[p : p + m2, j : j + n2].ravel() for p in range(0, m, m2) for j in range(0, n, n2)])


def tolerance(dtype: torch.dtype, terms: int) -> float:
    """Error of a chain of two matrix products, relative to the same chain on absolute values.

    Rounding ``S * A``, the intermediate and the result to ``dtype`` costs ``eps / 2`` each, so ``2 eps`` together;
    ``terms`` products and sums accumulate in float32 at least, at ``eps`` of that each.
    """
    accumulator = torch.promote_types(dtype, torch.float32)
    return 2 * torch.finfo(dtype).eps + (terms + 2) * torch.finfo(accumulator).eps


def assert_near(found: Tensor, wanted: Tensor, magnitude: Tensor, dtype: torch.dtype, terms: int) -> None:
    """``|found - wanted| <= tolerance * magnitude`` entry by entry, and what underflow of a half type may cost.

    ``magnitude`` is what ``wanted`` would be if no two of its terms cancelled.
    """
    assert found.dtype == dtype
    assert found.shape == wanted.shape
    excess = (found.double() - wanted).abs() - tolerance(dtype, terms) * magnitude
    assert (excess <= terms * torch.finfo(dtype).tiny).all(), f"off by {excess.max().item():.3g} beyond tolerance"


Block = tuple[int, int, int, int]


def brute_force(m: int, n: int, r: int) -> tuple[int, set[Block]]:
    """The least ``(1 + r) m1 n1 + r m2 n2`` and every ``(m1, n1, m2, n2)`` that attains it, by trying them all."""
    m1 = np.array([d for d in range(1, m + 1) if m % d == 0])[:, None]
    n1 = np.array([d for d in range(1, n + 1) if n % d == 0])[None, :]
    objective = (1 + r) * m1 * n1 + r * (m // m1) * (n // n1)
    best = int(objective.min())
    rows, columns = np.nonzero(objective == best)
    return best, {(p, j, m // p, n // j) for p, j in zip(m1[rows, 0].tolist(), n1[0, columns].tolist(), strict=True)}


def dense_weight(layer: KroneckerLinear) -> Tensor:
    return dense(layer.S.detach().double(), layer.A.detach().double(), layer.B.detach().double())


def assert_dense_output(layer: KroneckerLinear, x: Tensor, y: Tensor) -> None:
    """``y`` is what a dense layer with the oracle's weight gives, as near as the dtype lets it be."""
    W, bias = dense_weight(layer), None if layer.bias is None else layer.bias.detach().double()
    uncancelled = dense(*(f.detach().double().abs() for f in (layer.S, layer.A, layer.B)))
    magnitude = F.linear(x.double().abs(), uncancelled, None if bias is None else bias.abs())
    terms = layer.rank * layer.shape.n
    assert_near(y.detach(), F.linear(x.double(), W, bias), magnitude, layer.S.dtype, terms)


def assert_every_derivative(call: Callable[..., Tensor], primals: tuple[Tensor, ...]) -> Tensor:
    """Of ``call``, in float64: against differences, twice and forward, under a transform as without one. Returns its
    value."""
    assert torch.autograd.gradcheck(call, primals, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, primals)
    tangents = tuple(torch.randn_like(primal) for primal in primals)
    value, pushed = torch.func.jvp(call, primals, tangents)
    with torch.autograd.forward_ad.dual_level():
        duals = (torch.autograd.forward_ad.make_dual(*pair) for pair in zip(primals, tangents))
        found = torch.autograd.forward_ad.unpack_dual(call(*duals)).tangent
        torch.testing.assert_close(found, pushed, atol=1e-10, rtol=1e-10)
    return value


# Float32 factors from an SVD and two products: about 1e-6 a layer, relative to the outputs, which are of order 1.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}
