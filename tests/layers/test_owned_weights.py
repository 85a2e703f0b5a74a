"""A weight that its owner goes on reading: products by the factors, everything else as the formed tensor has it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import kronfx as kx
from kronfx.layers import Convolution, KroneckerConv, KroneckerLinear, adopt, view
from kronfx.layers.weight import formed_weight
from kronfx.records import EVALUATIONS, Evaluation, KroneckerShape

# Float64 products of some dozen terms of order 1, in another order.
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
Use = Callable[[Tensor, Tensor], Tensor]

# x [5, n] and w [m, n], or [n, m]; whether the whole is a product that needs no W.
UPRIGHT: dict[str, Use] = {
    "F.linear": F.linear,
    "x @ w.T": lambda x, w: x @ w.T,
    "w.t()": lambda x, w: x @ w.t(),
    "torch.t": lambda x, w: torch.mm(x, torch.t(w)),
    "transpose": lambda x, w: torch.matmul(x, w.transpose(0, 1)),
    "permute": lambda x, w: x.matmul(w.permute(1, 0)),
    "w @ x.T": lambda x, w: w @ x.T,
    "w @ vector": lambda x, w: w @ x[0],
    "einsum": lambda x, w: torch.einsum("an,mn->am", x, w),
    "rows": lambda x, w: F.linear(x, w[2:9]),
    "chunks": lambda x, w: torch.cat([F.linear(x, part) for part in w.chunk(3)], -1),
    "uneven split": lambda x, w: torch.cat([x @ part.T for part in torch.split(w, [1, 7, 4])], -1),
    "contiguous": lambda x, w: F.linear(x, w.contiguous().to(x.dtype).type_as(x)),
    "back": lambda x, w: F.linear(x, w.T.T),
}
TURNED: dict[str, Use] = {
    "x @ w": lambda x, w: x @ w,
    "addmm": lambda x, w: torch.addmm(x.new_ones(w.shape[1]), x, w, beta=2, alpha=3),
    "b.addmm": lambda x, w: x.new_ones(5, w.size(1)).addmm(x, w),
    "F.linear of w.T": lambda x, w: F.linear(x, w.mT),
    "through the other side": lambda x, w: F.linear(torch.ones(5, w.shape[1], dtype=x.dtype), w),
    "einsum, weight first": lambda x, w: torch.einsum("nm,an->am", w, x),
    "columns": lambda x, w: torch.cat([x @ part for part in w.split(5, dim=1)], -1),
}
OTHER: dict[str, Use] = {
    "sum": lambda x, w: x.sum() + w.sum(),
    "arithmetic": lambda x, w: x[0, 0] * (2 * w - w / 3 + w**2).abs(),
    "norm": lambda x, w: F.normalize(w, dim=1) @ x.new_ones(w.shape[1]),
    "indexed": lambda x, w: w[0] + w[:, 1].sum() + x.sum(),
    "stacked": lambda x, w: torch.stack([w, w]) + x.sum(),
}


def owned(layer: KroneckerLinear, transposed: bool) -> nn.Module:
    owner = nn.Module()
    owner.register_parameter("w", nn.Parameter(torch.zeros(1)))
    adopt(owner, "w", layer, transposed)
    return owner


def drawn(evaluation: Evaluation, *, stack: tuple[int, ...] = (), padded: bool = False) -> KroneckerLinear:
    torch.manual_seed(0)
    features = (12, 20) if padded else None
    shape = KroneckerShape(3, 7, 5, 3) if padded else KroneckerShape(3, 5, 4, 4)
    return KroneckerLinear(shape, 2, evaluation, False, dtype=torch.float64, stack=stack, features=features)


def agrees(use: Use, x: Tensor, owner: nn.Module, forms: bool) -> None:
    """The value and every gradient are the formed tensor's, and ``W`` is formed on the way or not."""
    weight = owner.w
    formed = weight.formed()
    leaves = list(weight.parameters())
    wanted = use(x, formed)
    torch.testing.assert_close(use(x, weight), wanted, **CLOSE)
    slope = torch.randn_like(wanted)
    gradients = torch.autograd.grad(wanted, leaves, slope)
    torch.testing.assert_close(torch.autograd.grad(use(x, weight), leaves, slope), gradients, **CLOSE)
    calls: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view, "formed_weight", lambda factors: calls.append(1) or formed_weight(factors))
        use(x, weight)
    assert forms == bool(calls)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("evaluation", ["a_first", "b_first"])
@pytest.mark.parametrize("name", [*UPRIGHT, *TURNED, *OTHER])
def test_every_use_is_the_formed_tensors(name: str, evaluation: Evaluation, padded: bool) -> None:
    owner = owned(drawn(evaluation, padded=padded), name in TURNED)
    agrees((UPRIGHT | TURNED | OTHER)[name], torch.randn(5, 20, dtype=torch.float64), owner, name in OTHER)


@given(st.integers(0, 12), st.integers(0, 12), st.sampled_from(EVALUATIONS), st.booleans())
def test_any_rows(start: int, stop: int, evaluation: Evaluation, padded: bool) -> None:
    weight, x = owned(drawn(evaluation, padded=padded), False).w, torch.randn(2, 20, dtype=torch.float64)
    rows = weight[start:stop]
    assert rows.shape == weight.formed()[start:stop].shape
    torch.testing.assert_close(F.linear(x, rows), F.linear(x, weight.formed()[start:stop]), **CLOSE)
    torch.testing.assert_close(rows.T @ rows, rows.formed().T @ rows.formed(), **CLOSE)


STACKED: dict[str, Use] = {  # x [3, 5, 20] and w [3, 20, 12]
    "bmm": torch.bmm,
    "x @ w": lambda x, w: x @ w,
    "baddbmm": lambda x, w: torch.baddbmm(x.new_ones(3, 1, 12), x, w),
    "one by one": lambda x, w: torch.stack([a @ b for a, b in zip(x, w, strict=True)]),
    "a member": lambda x, w: x[0] @ w[2],
    "a tensor's member": lambda x, w: x[0] @ w[torch.tensor(1)],
    "a member a row": lambda x, w: torch.bmm(x[0].unsqueeze(1), w[torch.tensor([0, 2, 2, 1, 0])]),
    "from the left": lambda x, w: torch.bmm(w.transpose(1, 2), x.transpose(1, 2)),
    "grouped": lambda x, w: F.grouped_mm(x.flatten(0, 1), w, offs=torch.tensor([4, 4, 15], dtype=torch.int32)),
}


@pytest.mark.parametrize("evaluation", ["a_first", "b_first"])
@pytest.mark.parametrize("name", STACKED)
def test_every_use_of_a_stack(name: str, evaluation: Evaluation) -> None:
    if name == "grouped" and not hasattr(F, "grouped_mm"):
        pytest.skip("this torch has no F.grouped_mm")
    owner, x = owned(drawn(evaluation, stack=(3,)), True), torch.randn(3, 5, 20, dtype=torch.float64)
    if name == "grouped":
        owner, x = owner.float(), x.float()
        torch.testing.assert_close(STACKED[name](x, owner.w), STACKED[name](x, owner.w.formed()), rtol=1e-4, atol=1e-4)
    else:
        agrees(STACKED[name], x, owner, False)


@pytest.mark.parametrize("evaluation", ["a_first", "b_first"])
def test_a_kernel(evaluation: Evaluation) -> None:
    torch.manual_seed(0)
    convolution = Convolution.of((3, 3), padding=1)
    layer = KroneckerConv(KroneckerShape(2, 2, 3, 18), 2, evaluation, convolution, False, dtype=torch.float64)
    owner, x = owned(layer, False), torch.randn(2, 4, 6, 5, dtype=torch.float64)
    assert owner.w.shape == owner.w.formed().shape == (6, 4, 3, 3)
    bias = torch.randn(6, dtype=torch.float64)
    agrees(lambda x, w: F.conv2d(x, w, bias, padding=1), x, owner, False)
    for other in (lambda x, w: F.conv2d(x, w, stride=2), lambda x, w: F.conv2d(x[0], w, padding=1)):
        torch.testing.assert_close(other(x, owner.w), other(x, owner.w.formed()), **CLOSE)


def test_it_tells_what_a_tensor_tells() -> None:
    for transposed, stack in ((False, ()), (True, ()), (True, (3,))):
        weight = owned(drawn("a_first", stack=stack), transposed).w
        formed = weight.formed()
        for name in ("shape", "dtype", "device", "ndim", "layout", "is_cuda", "requires_grad", "is_meta"):
            assert getattr(weight, name) == getattr(formed, name), name
        assert (weight.size(), weight.size(-1), weight.dim(), weight.numel(), len(weight)) == (
            formed.size(), formed.size(-1), formed.dim(), formed.numel(), len(formed),
        )  # fmt: skip
        assert weight.to(torch.float16).dtype == weight.half().dtype == torch.float16
        assert torch.equal(weight.half().formed(), formed.half())
        assert torch.equal(torch.as_tensor(weight.detach()), formed)
        assert not hasattr(weight, "no_such_thing")


class Owner(nn.Module):
    """Two weights of its own, read as a person may."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Parameter(torch.randn(16, 24) / 5), nn.Parameter(torch.randn(16, 24) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(F.linear(x, self.a)) @ self.c


def factored_owner() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return kx.factorize(Owner(), rank=2), torch.randn(4, 24)


@pytest.mark.parametrize("strict", [True, False])
def test_exported_and_compiled(strict: bool) -> None:
    torch.compiler.reset()
    model, x = factored_owner()
    program = torch.export.export(model, (x,), strict=strict)
    torch.testing.assert_close(program.module()(x), model(x))
    assert not any(node.target is torch.ops.aten.linear.default for node in program.graph.nodes)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))


def test_compiled_from_the_left() -> None:
    torch.compiler.reset()
    weight, x = owned(drawn("a_first"), False).w, torch.randn(20, 5, dtype=torch.float64)
    compiled = torch.compile(lambda x: weight @ x, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), weight.formed() @ x, **CLOSE)


def test_copied_pickled_mapped_and_checkpointed() -> None:
    model, x = factored_owner()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin) is Owner
        assert torch.equal(twin(x), model(x))
        assert twin.a.S is not model.a.S
    parameters = dict(model.named_parameters())
    stacked = {name: torch.stack([p, 2 * p]) for name, p in parameters.items()}
    mapped = torch.func.vmap(lambda p: torch.func.functional_call(model, p, (x,)))(stacked)
    torch.testing.assert_close(mapped[0], model(x))
    again = checkpoint(model, x.requires_grad_(), use_reentrant=False)
    wanted = torch.autograd.grad(model(x).sum(), list(parameters.values()))
    torch.testing.assert_close(torch.autograd.grad(again.sum(), list(parameters.values())), wanted)


def test_threads_share_nothing() -> None:
    torch.manual_seed(0)
    layer, x = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True), torch.randn(4, 5, 16)
    model = kx.factorize(layer, rank=2)
    wanted = torch.autograd.grad(model(x).sum(), list(model.self_attn.in_proj_weight.parameters()))

    def gradients(turn: int) -> bool:
        if turn % 2:
            with torch.no_grad():
                model(x)
            return True
        found = torch.autograd.grad(model(x).sum(), list(model.self_attn.in_proj_weight.parameters()))
        return all(torch.allclose(a, b) for a, b in zip(found, wanted, strict=True))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(gradients, range(80)))
