"""Small models that between them hold every way the pass can meet a weight."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronfx.layers import BlockSparseLinear, FoldedWeight, KroneckerLinear, folded_layers
from kronfx.records import Evaluation, KroneckerShape


class Odd(nn.Module):
    """Linear layers of odd and prime sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(37, 53)
        self.second = nn.Linear(53, 45, bias=False)
        self.head = nn.Linear(45, 11)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.relu(self.first(x)))))


class Half(nn.Module):
    """One of two maps is used."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Functional(nn.Module):
    """``F.linear`` on its own parameters, a child in between, dropout by the training flag, and an unused child."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(31, 18) / 4)
        self.b1 = nn.Parameter(torch.randn(31))
        self.fc = nn.Linear(31, 12)
        self.w2 = nn.Parameter(torch.randn(12, 12) / 3)
        self.norm = nn.LayerNorm(12)
        self.unused = nn.Linear(6, 6)
        self.hidden_size = 31

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.linear(x, self.w1, self.b1), 0.3, self.training)
        return self.norm(F.linear(input=self.fc(x), weight=self.w2))


class Shared(nn.Module):
    """One layer under two names, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.again = self.layer
        self.out = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.again(torch.relu(self.layer(x))))


class Tied(nn.Module):
    """An embedding whose weight is the head's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 16)
        self.middle = nn.Linear(16, 16)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.middle(self.embedding(tokens)))


class Optional(nn.Module):
    """Its forward branches on an optional argument."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = F.linear(x, self.w)
        return y if mask is None else y * mask


class Branching(nn.Module):
    """Its forward branches on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 8))
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return F.linear(x, self.w)
        return self.fc(x)


class TwoPaths(nn.Module):
    """Another operation in training than in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.w)
        return y + torch.randn_like(y) if self.training else y


class Twice(nn.Module):
    """One weight in two linear maps of one forward."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.w), self.w)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU in between."""
    layers: list[nn.Module] = []
    for n, m in pairwise(widths):
        layers += [nn.Linear(n, m), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Skip(nn.Sequential):
    """Layers whose output is added to what went in: the last of them ends a residual branch."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def skip(*widths: int) -> Skip:
    """A residual branch of linear layers; the first width is the last one."""
    return Skip(*mlp(*widths))


def lenet_features() -> nn.Sequential:
    """LeNet-5 up to the 400 features of its head."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )


def lenet5() -> nn.Sequential:
    """The 61,706-parameter LeNet-5 for 28x28 images."""
    head = {
        "fc1": nn.Linear(400, 120),
        "a1": nn.ReLU(),
        "fc2": nn.Linear(120, 84),
        "a2": nn.ReLU(),
        "fc3": nn.Linear(84, 10),
    }
    model = lenet_features()
    for name, layer in head.items():
        model.add_module(name, layer)
    return model


def folded(m: int, n: int, block: tuple[int, int], zero: float = 0.9, seed: int = 0, bias: bool = True) -> nn.Linear:
    """A folded layer with the given share of its blocks exactly zero."""
    generator = torch.Generator().manual_seed(seed)
    shape = KroneckerShape(m // block[0], n // block[1], *block)
    keep = torch.zeros(shape.blocks)
    keep[torch.randperm(shape.blocks, generator=generator)[: round(shape.blocks * (1 - zero))]] = 1
    mask = torch.kron(keep.reshape(shape.m1, shape.n1), torch.ones(block))
    weight = torch.randn(m, n, generator=generator) / n**0.5 * mask
    return BlockSparseLinear(weight, torch.randn(m, generator=generator) if bias else None, shape)


def factored(shape: tuple[int, int, int, int], rank: int, evaluation: Evaluation, bias: bool = True) -> KroneckerLinear:
    """A factored layer of shape ``(m1, n1, m2, n2)`` with one zero row of blocks."""
    layer = KroneckerLinear(KroneckerShape(*shape), rank, evaluation, bias)
    with torch.no_grad():
        layer.S[0] = 0
    return layer


class FoldedLeNet(nn.Module):
    """LeNet-5 with its three linear layers folded to small blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.features = lenet_features()
        self.fc1 = folded(120, 400, (8, 16), seed=1)
        self.fc2 = folded(84, 120, (4, 8), seed=2)
        self.fc3 = folded(10, 84, (2, 4), seed=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(self.fc2(self.fc1(self.features(x)).relu()).relu())


def folded_mlp() -> nn.Sequential:
    """512-1024-1024-10, the two large layers folded to 32x32 blocks."""
    first, second = folded(1024, 512, (32, 32), seed=1), folded(1024, 1024, (32, 32), seed=2)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(1024, 10))


def needed_bytes(model: nn.Module) -> int:
    """Entries that a file cannot do without: those of surviving blocks and of everything that is not folded."""
    sparse = folded_layers(model).values()
    starts = {layer.weight.data_ptr() for layer in sparse}
    rest = sum(p.nbytes for p in model.parameters() if p.data_ptr() not in starts)
    return rest + sum((layer.blocks - layer.zero_blocks()) * block_bytes(layer) for layer in sparse)


def block_bytes(layer: FoldedWeight) -> int:
    m2, n2 = layer.shape.block
    return m2 * n2 * layer.weight.element_size()


SHAPE = KroneckerShape(3, 4, 5, 2)  # W [15, 8]


def kronecker_layer(
    evaluation: Evaluation = "a_first", dtype: torch.dtype = torch.float64, bias: bool = True
) -> KroneckerLinear:
    """A seeded layer of rank 3 with one block of ``S`` switched off."""
    torch.manual_seed(0)
    layer = KroneckerLinear(SHAPE, 3, evaluation, bias=bias, dtype=dtype)
    with torch.no_grad():
        layer.S[1, 2] = 0
    return layer


class Furnished(nn.Module):
    """An owner with everything a module can own besides its weight: state, no state, children, words, methods."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(32, 24) / 5)
        self.register_parameter("bias", None)
        self.register_buffer("scale", torch.rand(32) + 1)
        self.register_buffer("scratch", torch.ones(32), persistent=False)
        self.spare = nn.Parameter(torch.randn(3))
        self.out = nn.Linear(32, 32)
        self.width = 32
        self._secret = "kept"

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.dropout(F.linear(x, self.w, self.bias) * self.scale * self.scratch, 0.2, self.training))

    def describe(self) -> str:
        return f"{self.width} wide, {self._secret}"


def furnished() -> nn.Module:
    return nn.Sequential(Furnished())


def attention() -> nn.Module:
    """Its packed projection is read by an owner that keeps its forward."""
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, dropout=0.1, batch_first=True), 2)


def convolutions() -> nn.Module:
    """Kernels, a stride, padding, and a linear head."""
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, bias=False)
    return nn.Sequential(first, nn.ReLU(), second, nn.Flatten(), nn.Linear(32, 10))


class Entangled(nn.Module):
    """One layer under two names, its weight in a second layer, both orientations at work; a factored one twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = folded(48, 48, (8, 8), 0.8)
        self.again = self.a
        self.tied = folded(48, 48, (8, 8), 0.8, bias=False)
        self.tied.weight = self.a.weight
        self.k = factored((6, 6, 8, 8), 2, "b_first")
        self.once_more = self.k
        self.unused = folded(48, 48, (8, 8), 0.5, seed=5)

    def forward(self, x: Tensor) -> Tensor:
        return self.once_more(self.tied(self.again(self.a(self.k(x)))[:, None]))
