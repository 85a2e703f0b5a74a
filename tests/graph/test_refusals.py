"""What is left alone says why and what to do about it: the reason names the very call, and doing it makes it a site."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm
from torch.nn.utils import remove_spectral_norm as no_spectral_norm
from torch.nn.utils import remove_weight_norm as no_weight_norm

import kronfx as kx
from kronfx.errors import CheckpointError, FactorizeError, GraphError

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")


def reasons(model: nn.Module) -> list[str]:
    """Of all that a plan leaves alone, where it leaves everything alone."""
    plan = kx.plan(model)
    assert plan.choices == ()
    return [refusal.reason for refusal in plan.refusals]


class Uses(nn.Module):
    """A weight that is used otherwise than as the matrix of a product."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Embedding(16, 16), "read by embedding"),
        (nn.EmbeddingBag(16, 16), "read by embedding_bag"),
        (Uses(), "read in an operation of its elements"),
    ],
)
def test_a_weight_that_is_no_matrix_has_a_sentence_and_no_code(model: nn.Module, said: str) -> None:
    assert reasons(model) == [f"{said}, which is no linear map that kronfx rewrites"]


def linear() -> nn.Linear:
    return nn.Linear(16, 16)


Remedy = Callable[[nn.Module], object]
COMPUTED: dict[str, tuple[Callable[[], nn.Module], str, Remedy]] = {
    "weight_norm": (lambda: weight_norm(linear()), "torch.nn.utils.remove_weight_norm", no_weight_norm),
    "spectral_norm": (lambda: spectral_norm(linear()), "torch.nn.utils.remove_spectral_norm", no_spectral_norm),
    "prune": (
        lambda: prune.ln_structured(linear(), "weight", 0.5, n=2, dim=0),
        "torch.nn.utils.prune.remove",
        lambda module: prune.remove(module, "weight"),
    ),
    "pruned twice": (
        lambda: prune.random_unstructured(prune.l1_unstructured(linear(), "weight", 0.5), "weight", 0.5),
        "torch.nn.utils.prune.remove",
        lambda module: prune.remove(module, "weight"),
    ),
    "parametrization": (
        lambda: parametrizations.weight_norm(linear()),
        "torch.nn.utils.parametrize.remove_parametrizations",
        lambda module: parametrize.remove_parametrizations(module, "weight"),
    ),
    "orthogonal": (
        lambda: parametrizations.orthogonal(linear()),
        "torch.nn.utils.parametrize.remove_parametrizations",
        lambda module: parametrize.remove_parametrizations(module, "weight"),
    ),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_computed_weight_names_the_call_that_frees_it(name: str) -> None:
    build, call, free = COMPUTED[name]
    model = build()
    found = reasons(model)
    assert found
    assert all(f"call {call} first" in reason for reason in found)
    free(model)
    assert [choice.site.kind for choice in kx.plan(model).choices] == ["Linear"]


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "prune"])
def test_the_rest_of_such_a_model_is_rewritten(name: str) -> None:
    """torch's own ``copy.deepcopy`` refuses a module that holds a computed tensor."""
    model = nn.Sequential(COMPUTED[name][0](), linear()).eval()
    x = torch.randn(3, 16)
    factored = kx.factorize(model, rank="full", init="nearest")
    assert list(kx.factors(factored)) == ["1"]
    torch.testing.assert_close(factored(x), model(x), rtol=1e-4, atol=1e-5)
    folded = kx.fold(factored)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-5)


class Low(nn.Module):
    """A parametrization with weights of its own, which look like those of a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(torch.randn(2, 16)), nn.Parameter(torch.randn(16, 2))

    def forward(self, W: Tensor) -> Tensor:
        return W + self.up @ self.down


def test_what_a_parametrization_holds_is_no_site() -> None:
    model = linear()
    parametrize.register_parametrization(model, "weight", Low())
    assert len(reasons(model)) == 3
    assert all("a parametrization (Low) computes" in reason for reason in reasons(model))


class Held(nn.Module):
    """Weights in torch's containers for parameters."""

    def __init__(self, held: nn.Module) -> None:
        super().__init__()
        self.held = held

    def forward(self, x: Tensor, key: Any = 0) -> Tensor:
        return x @ self.held[key]  # type: ignore[index, no-any-return]


@pytest.mark.parametrize("kind", [nn.ParameterList, nn.ParameterDict])
def test_containers_of_parameters(kind: type[nn.Module]) -> None:
    container = kind([torch.ones(8, 8)] if kind is nn.ParameterList else {"a": torch.ones(8, 8)})
    (reason,) = reasons(Held(container))
    assert reason.startswith(f"held by a {type(container).__name__}")


class Packed(Tensor):
    """A weight in a format of its own: none of torch's operations understands it."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(f"Packed takes no {func}")


def test_a_tensor_subclass_is_named_and_never_computed_with() -> None:
    model = nn.Sequential(linear(), linear())
    packed = Tensor._make_wrapper_subclass(Packed, (16, 16), dtype=torch.float32)  # type: ignore[attr-defined]
    model[0].weight = nn.Parameter(packed, requires_grad=False)
    (refusal,) = kx.plan(model).refusals
    assert (refusal.site, refusal.kind) == ("0", "Linear")
    assert refusal.reason.startswith("a Packed, which may hold its values quantized")
    assert [layer.site for layer in kx.inspect(model).layers] == ["1"]


class Marked(nn.Parameter):
    """A library's own class of parameters: what it makes of a weight is not known."""


VALUES: dict[str, tuple[Tensor, str]] = {
    "sparse": (torch.eye(16).to_sparse(), "of layout sparse_coo: call to_dense"),
    "complex": (torch.randn(16, 16, dtype=torch.complex64), "dtype complex64 is not a floating type"),
    "float8": (torch.ones(16, 16).to(torch.float8_e4m3fn), "dtype float8_e4m3fn is not a floating type"),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_that_are_no_plain_floating_matrix(name: str) -> None:
    value, reason = VALUES[name]
    model = linear()
    model.weight = nn.Parameter(value, requires_grad=False)
    assert reasons(model)[0].startswith(reason)


def test_a_parameter_of_a_class_of_its_own() -> None:
    model = linear()
    model.weight = Marked(model.weight.detach())
    assert reasons(model)[0].startswith("a Marked, which may hold")


def test_a_compiled_script_is_left_as_it_is() -> None:
    model = nn.Sequential(linear(), nn.ReLU())
    x = torch.randn(2, 16)
    for compiled in (torch.jit.script(model), torch.jit.trace(model, x)):
        assert all(reason.startswith("compiled by torch.jit") for reason in reasons(compiled))


def standardized(module: nn.Module, _: Any) -> None:
    module.weight = module.raw - module.raw.mean()


def test_a_hook_of_the_users_own_is_named() -> None:
    model = linear()
    model.raw = nn.Parameter(torch.randn(16, 16))
    del model._parameters["weight"]
    model.weight = torch.zeros(16, 16)
    model.register_forward_pre_hook(standardized)
    assert "its forward pre-hook (standardized) may: remove the hook first" in reasons(model)[0]


def test_offloaded_layers_are_named_and_keep_working() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = nn.Sequential(linear(), nn.ReLU(), linear())
    x = torch.randn(3, 16)
    wanted = model(x)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert len(reasons(model)) == 2
    assert all("offloaded by accelerate" in reason for reason in reasons(model))
    torch.testing.assert_close(model(x), wanted)
    accelerate.hooks.remove_hook_from_submodules(model)
    assert len(kx.plan(model).choices) == 2


def test_what_torchao_quantized_is_left_alone() -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    assert all(reason.startswith("a Int8Tensor") for reason in reasons(model))


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DistributedDataParallel": DistributedDataParallel,
    "DataParallel": DataParallel,
    "FSDPModule": lambda model: fully_shard(model, mesh=dist.init_device_mesh("cpu", (1,))),
}


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("compiled", [False, True])
def test_wrapped_first_is_refused(name: str, compiled: bool, tmp_path: Any) -> None:
    """The wrapper holds on to the dense parameters: gradients of the factors would never be averaged."""
    folder = kx.save(kx.factorize(linear(), rank=2), tmp_path / "saved")
    model = WRAPPERS[name](linear())
    model = torch.compile(model, backend="eager") if compiled else model
    refused = f"a model wrapped in {name}; needed the model itself; .* then wrap it"
    for inplace in (False, True):
        with pytest.raises(FactorizeError, match=refused):
            kx.factorize(model, rank=2, inplace=inplace)
    with pytest.raises(CheckpointError, match=f"a model wrapped in {name}"):
        kx.load(model, folder)
    assert all("factorize the model first, then wrap it" in reason for reason in reasons(model))


@pytest.mark.usefixtures("one_process")
def test_a_wrapped_part_is_left_alone() -> None:
    model = nn.Sequential(DistributedDataParallel(linear()), linear())
    factored = kx.factorize(model, rank=2)
    assert list(kx.factors(factored)) == ["1"]
    (refusal,) = kx.inspect(factored).refusals
    assert (refusal.site, refusal.reason[:34]) == ("0", "wrapped in DistributedDataParallel")
    assert F.mse_loss(factored(torch.randn(2, 16)), torch.zeros(2, 16)) > 0


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(16, 8)), nn.MultiheadAttention(16, 2)])
def test_a_factored_layer_says_that_it_does_not_script(model: nn.Module) -> None:
    with pytest.raises(GraphError, match=r"torch.jit.script of a factored layer; .*; call kx.fold\(model\) first"):
        torch.jit.script(kx.factorize(model, rank=1))
