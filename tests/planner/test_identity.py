"""A model whose branches start at zero starts as the identity along its streams, and learns from there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import transformers as hf
from torch import Tensor, nn
from zoo.entry import lively

import kronfx as kx
from kronfx.planner.options import DEFAULT_RANK


def started(model: nn.Module) -> nn.Module:
    """Factored, every bias zero, in evaluation: what a block adds to its stream is what its last map makes."""
    torch.manual_seed(0)
    factored = kx.factorize(lively(model), rank=1).eval()
    with torch.no_grad():
        for name, parameter in factored.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    return factored


def through(block: nn.Module, run: Callable[[], object]) -> tuple[Tensor, Tensor]:
    """What goes into a block and what comes out while ``run`` runs."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        seen.append((inputs[0], output if isinstance(output, Tensor) else output[0]))

    handle = block.register_forward_hook(note)
    with torch.no_grad():
        run()
    handle.remove()
    return seen[0]


def test_a_gpt_passes_its_embeddings_through() -> None:
    config = hf.GPT2Config(vocab_size=96, n_positions=32, n_embd=32, n_layer=2, n_head=4, use_cache=False)
    model = started(hf.GPT2LMHeadModel(config))
    ids = torch.randint(0, 96, (2, 7))
    for block in model.transformer.h:
        x, y = through(block, lambda: model(ids))
        assert torch.equal(x, y)


@pytest.mark.parametrize(
    ("name", "options", "stages"),
    [
        (
            "vit_tiny_patch16_224",
            {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4},
            "blocks",
        ),
        ("convnext_atto", {"dims": (16, 16, 32, 32), "depths": (2, 2, 2, 2)}, "stages.1.blocks"),
        ("resnet18", {"channels": (8, 16, 32, 32), "layers": (2, 1, 1, 1), "stem_width": 8}, "layer1"),
    ],
)
def test_a_block_of_an_image_model_is_the_identity(name: str, options: dict[str, object], stages: str) -> None:
    model = started(timm.create_model(name, num_classes=10, **options))
    x, y = through(model.get_submodule(stages)[-1], lambda: model(torch.randn(2, 3, 32, 32)))
    assert torch.equal(torch.relu(x) if name == "resnet18" else x, y)


class Block(nn.Module):
    """The residual block of a ResNet: its last convolution has a batch normalization behind it."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(n, n, 3, padding=1, bias=False), nn.BatchNorm2d(n)
        self.conv2, self.bn2 = nn.Conv2d(n, n, 3, padding=1, bias=False), nn.BatchNorm2d(n)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
    "Adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_convolution_at_zero_before_a_batch_norm_trains(optimizer: str) -> None:
    """Of a constant the normalization is its bias, and its gradient ``1 / sqrt(eps)`` times as large: no step blows up,
    and the loss falls as far as from a start that is not zero."""
    losses = {}
    for zero_start in ("residual", None):
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), Block(16), Block(16), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        factored = kx.factorize(model, rank=DEFAULT_RANK, include="*conv*", zero_start=zero_start)
        x, labels = torch.randn(64, 3, 8, 8), torch.randint(0, 16, (64,))
        stepper, history = OPTIMIZERS[optimizer](factored), list[float]()
        for _ in range(60):
            stepper.zero_grad()
            loss = nn.functional.cross_entropy(factored(x), labels)
            loss.backward()
            stepper.step()
            history.append(float(loss.detach()))
        losses[zero_start] = history
    ours, usual = losses["residual"], losses[None]
    assert max(ours) <= 2 * ours[0]
    assert ours[-1] <= max(0.05, 2 * usual[-1])
