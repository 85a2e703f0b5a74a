"""The ends of residual branches: found in every spelling, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kronfx as kx
from kronfx.graph import branches, discover


class Mlp(nn.Module):
    """``fc2(gelu(fc1(x)))``, all that a branch needs."""

    def __init__(self, n: int = 16, m: int | None = None) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(n, 24), nn.Linear(24, m or n)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class Spelled(nn.Module):
    """One branch and whatever else the function makes of it."""

    def __init__(self, way: Callable[[Spelled, Tensor], Tensor]) -> None:
        super().__init__()
        self.norm, self.mlp, self.other = nn.LayerNorm(16), Mlp(), Mlp()
        self.mix, self.bn = nn.Linear(16, 16), nn.BatchNorm1d(16)
        self.gamma, self.gate = nn.Parameter(torch.ones(16)), nn.Linear(16, 16)
        self.dropout = nn.Dropout(0.1)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


def _in_place(m: Spelled, x: Tensor) -> Tensor:
    x = m.norm(x)
    x += m.mlp(x)
    return x


def _padded(m: Spelled, x: Tensor) -> Tensor:
    y = F.pad(m.norm(x), (0, 0, 0, 2)).unflatten(1, (2, -1)).roll(1, 2).flatten(0, 1)
    return x + m.mlp(y).view(x.shape[0], -1, 16)[:, : x.shape[1]].contiguous()


def _gated_by_itself(m: Spelled, x: Tensor) -> Tensor:
    y = m.mlp(x)
    return x + y * torch.sigmoid(m.gate(y.mean(1, keepdim=True)))


def _written(m: Spelled, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, 2:] = m.mlp(x[:, 2:])
    return x + out


def _routed(m: Spelled, x: Tensor) -> Tensor:
    weights = torch.softmax(m.gate(x), -1)
    both = m.mlp(x) * weights[..., :1] + m.other(x) * weights[..., 1:2]
    return x + both


def _drop_path(m: Spelled, x: Tensor) -> Tensor:
    keep = torch.ones(x.shape[0], 1, 1).bernoulli_(0.9)
    return x + m.mlp(x) / 0.9 * keep


BRANCHES: dict[str, tuple[Callable[[Spelled, Tensor], Tensor], set[str]]] = {
    "pre-norm": (lambda m, x: x + m.mlp(m.norm(x)), {"mlp.fc2"}),
    "post-norm": (lambda m, x: m.norm(m.mlp(x) + x), {"mlp.fc2"}),
    "dropout and scale": (lambda m, x: torch.add(x, 0.5 * m.dropout(m.mlp(x)) * m.gamma), {"mlp.fc2"}),
    "divided": (lambda m, x: x + m.mlp(x) / 2**0.5, {"mlp.fc2"}),
    "subtracted": (lambda m, x: x - m.mlp(x), {"mlp.fc2"}),
    "addcmul": (lambda m, x: torch.addcmul(x, m.gamma, m.mlp(x)), {"mlp.fc2"}),
    "addmm": (lambda m, x: (lambda h: torch.addmm(h, torch.relu(h), m.mix.weight.t()))(x[0]), {"mix"}),
    "in place": (_in_place, {"mlp.fc2"}),
    "cast": (lambda m, x: (x.double() + m.mlp(x).double()).float(), {"mlp.fc2"}),
    "transposed": (lambda m, x: x + m.mlp(x.flip(1)).transpose(1, 2).mT, {"mlp.fc2"}),
    "windows of padding": (_padded, {"mlp.fc2"}),
    "batch norm": (lambda m, x: x + m.bn(m.mlp(x).mT).mT, {"mlp.fc2"}),
    "drop path": (_drop_path, {"mlp.fc2"}),
    "side by side": (lambda m, x: x + m.mlp(m.norm(x)) + m.other(m.norm(x)), {"mlp.fc2", "other.fc2"}),
    "side by side, stream last": (lambda m, x: m.mlp(x) + m.other(x) + x, {"mlp.fc2", "other.fc2"}),
    "one after another": (lambda m, x: (lambda h: h + m.other(m.norm(h)))(x + m.mlp(x)), {"mlp.fc2", "other.fc2"}),
    "nested": (lambda m, x: x + m.other.fc2(F.gelu(m.other.fc1(m.mlp(x) + x))), {"mlp.fc2", "other.fc2"}),
    "scaled stream": (lambda m, x: m.norm(2.4 * x + m.mlp(x)), {"mlp.fc2"}),
    "gated by the stream": (lambda m, x: x + torch.sigmoid(m.gate(x)) * m.mlp(x), {"mlp.fc2"}),
    "gated by itself": (_gated_by_itself, {"mlp.fc2"}),
    "routed": (_routed, {"mlp.fc2", "other.fc2"}),
    "written into zeros": (_written, {"mlp.fc2"}),
    "a learned stream": (
        lambda m, x: (lambda q: q + m.mlp(m.norm(q) + x[:, :1]))(m.gamma.expand(2, 1, 16)),
        {"mlp.fc2"},
    ),
    "a single map": (lambda m, x: x + m.mix(x), {"mix"}),
}

NOTHING: dict[str, Callable[[Spelled, Tensor], Tensor]] = {
    "no sum": lambda m, x: m.other(m.mlp(x)),
    "two towers": lambda m, x: m.mlp(x) + m.other(x),
    "two towers, one shallow": lambda m, x: m.mlp(x) + m.mix(x),
    "activation after": lambda m, x: x + torch.relu(m.mlp(x)),
    "norm after": lambda m, x: x + m.norm(m.mlp(x)),
    "rms norm after": lambda m, x: x + (lambda y: y * torch.rsqrt(y.square().mean(-1, keepdim=True)))(m.mlp(x)),
    "square": lambda m, x: x + m.mlp(x).square(),
    "a product of two maps": lambda m, x: x + m.mlp(x) * m.gate(x),
    "a product of two maps, one moved": lambda m, x: x + m.mlp(x) * m.gate(x[:, :1]).chunk(2, 0)[0],
    "another use": lambda m, x: x + (lambda y: y + torch.tanh(y))(m.mlp(x)),
    "a constant added": lambda m, x: torch.relu(m.mlp(x) + m.gamma),
    "a highway": lambda m, x: (lambda t: t * m.mlp(x) + (1 - t) * x)(torch.sigmoid(m.gate(x))),
    "scores": lambda m, x: x + torch.softmax(m.mlp(x) @ m.mix(x).mT, -1) @ x,
    "a bias of the input and of the output": lambda m, x: m.mlp(x + m.gamma) + m.gamma,
    "another stream": lambda m, x: m.mlp(torch.ones_like(x)) + x,
}


@pytest.mark.parametrize("name", BRANCHES)
def test_an_end_is_found(name: str) -> None:
    way, expected = BRANCHES[name]
    model = Spelled(way)
    assert branches(model, discover(model).matches, torch.ones(2, 8, 16)).ends == expected


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_else_is_taken_for_one(name: str) -> None:
    model = Spelled(NOTHING[name])
    found = branches(model, discover(model).matches, torch.ones(2, 8, 16))
    assert found.ends == frozenset()


class Bottleneck(nn.Module):
    """A residual block; where it changes the size of its stream the shortcut is a convolution."""

    def __init__(self, n: int, m: int, squeeze: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(n, 8, 1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, m, 3, padding=1), nn.BatchNorm2d(m)
        self.se = nn.Conv2d(m, m, 1) if squeeze else None
        self.down = nn.Sequential(nn.AvgPool2d(1), nn.Conv2d(n, m, 1), nn.BatchNorm2d(m)) if n != m else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        if self.se is not None:
            y = y * torch.sigmoid(F.relu(self.se(y.mean((2, 3), keepdim=True)), inplace=True))
        return torch.relu(y + (x if self.down is None else self.down(x)))


def test_a_block_that_changes_its_stream_ends_in_its_branch_and_not_in_its_shortcut() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Bottleneck(8, 8), Bottleneck(8, 12), Bottleneck(12, 12, squeeze=True))
    found = branches(model, discover(model).matches)
    assert found.ends == {"1.conv2", "2.conv2", "3.conv2"}
    assert found.blind == ""


def test_two_convolutions_of_one_input_are_two_towers() -> None:
    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.narrow, self.bn = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(self.wide(x)) + self.narrow(x)

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Towers())
    assert branches(model, discover(model).matches).ends == frozenset()


class Recurrent(nn.Module):
    """An LSTM written out: every gate is a sum of two maps, the state is added to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.of_input, self.of_state = nn.Linear(16, 64), nn.Linear(16, 64)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            i, f, g, o = (self.of_input(x[:, t]) + self.of_state(h)).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return h


def test_the_gates_of_an_lstm_are_no_residuals() -> None:
    model = Recurrent()
    found = branches(model, discover(model).matches)
    assert found.ends == frozenset()
    assert found.followed == {"of_input", "of_state"}


def test_a_map_that_ends_a_branch_once_and_not_another_time_is_no_end() -> None:
    model = Spelled(lambda m, x: torch.tanh(m.mlp(x + m.mlp(x))))
    found = branches(model, discover(model).matches, torch.ones(2, 8, 16))
    assert found.ends == frozenset()
    assert {"mlp.fc1", "mlp.fc2"} <= found.followed


class Picky(nn.Module):
    """A forward that no guess can call, of blocks that run by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 16)
        self.blocks = nn.ModuleList(Spelled(lambda m, x: x + m.mlp(m.norm(x))) for _ in range(2))
        self.last = Mlp()

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch["features"])
        for block in self.blocks:
            x = block(x)
        return x + self.last(x)


def test_where_no_guess_runs_the_parts_do_and_the_plan_says_what_was_not_seen() -> None:
    plan = kx.plan(Picky(), rank=1)
    assert plan.zero_started == ("blocks.0.mlp.fc2", "blocks.1.mlp.fc2")
    assert "zero_start: not every map could be followed" in plan.notes[0]
    assert "last.fc2" in plan.notes[0]
    assert "example_inputs" in str(plan)
    helped = kx.plan(Picky(), rank=1, example_inputs=({"features": torch.ones(2, 8, 5)},))
    assert helped.zero_started == (*plan.zero_started, "last.fc2")


def test_a_graph_module_and_an_exported_program_have_the_same_ends() -> None:
    model = Spelled(lambda m, x: x + m.mlp(m.norm(x))).eval()
    x = torch.ones(2, 8, 16)
    exported = torch.export.export(model, (x,), strict=False).module()
    for graph in (torch.fx.symbolic_trace(Spelled(BRANCHES["pre-norm"][0])), exported):
        assert branches(graph, discover(graph).matches).ends == {"mlp.fc2"}


def test_a_name_that_ends_no_branch() -> None:
    model = nn.Sequential(nn.Linear(16, 16), Spelled(BRANCHES["pre-norm"][0]))
    with pytest.raises(kx.KronfxError, match=r"zero_start names '1\.mlp\.fc1', which ends no residual branch; .*fc2"):
        kx.plan(model, rank=1, zero_start="1.mlp.fc1")
    plan = kx.plan(model, rank=1, zero_start="1.mlp.*")
    assert plan.zero_started == ("1.mlp.fc2",)
    assert "'1.mlp.*' names maps too that end no residual branch: 1.mlp.fc1" in plan.notes[0]
    assert kx.plan(model, rank=1, zero_start=["1.mlp.fc2"]).zero_started == ("1.mlp.fc2",)
    assert kx.plan(model, rank=1, zero_start="1.mix").zero_started == ("1.mix",)  # never called: nobody could see


class Counting(nn.Module):
    """Draws, counts and keeps what it saw, as a person's module may."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp, self.calls, self.kept = Mlp(), 0, list[Tensor]()
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.kept.append(x)
        self.mean += torch.rand(16) + x.mean((0, 1))
        return x + self.mlp(x)


def test_looking_leaves_nothing_behind() -> None:
    model, hooked = Counting(), list[str]()
    model.mlp.register_forward_hook(lambda *_: hooked.append("called"))
    before, state = torch.random.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    assert branches(model, discover(model).matches, torch.ones(2, 8, 16)).ends == {"mlp.fc2"}
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.is_grad_enabled()
    assert model.training
    assert (model.calls, model.kept, hooked) == (0, [], [])
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_model_on_the_meta_device_shows_its_ends() -> None:
    with torch.device("meta"):
        model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32), 2)
    plan = kx.plan(model, rank=1)
    assert set(plan.zero_started) == {
        f"layers.{i}.{name}" for i in (0, 1) for name in ("self_attn.out_proj", "linear2")
    }
