"""The inference benchmark's models: architectures with random weights, blocks of them set to zero by plain torch code,
and their dense ONNX files by plain ``torch.onnx.export``. Nothing here knows kronfx.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import timm
import torch
import transformers
from onnx import numpy_helper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Shape = tuple[int, ...]
WIDE = {"num_hidden_layers": 4, "vocab_size": 1}


@dataclass(frozen=True, eq=False)
class Workload:
    """A model, and the shapes of its input with the number of rows that its linear maps then see.

    ``axes`` names the leading axes of the input that stay dynamic in the file.
    """

    name: str
    build: Callable[[], nn.Module]
    rows: Mapping[Shape, int]
    axes: tuple[str, ...] = ("batch",)

    @property
    def dynamic_shapes(self) -> tuple[dict[int, str]]:
        """The dynamic axes, as ``torch.export`` wants them."""
        return (dict(enumerate(self.axes)),)

    def example(self, shape: Shape) -> Tensor:
        """An input of that shape, but for dynamic axes so short that torch takes them for a constant."""
        shortest = (2, 3)[: len(self.axes)]  # and unequal, or it takes one axis for the other
        return torch.randn(*map(max, shape, shortest), *shape[len(self.axes) :])


class Encoder(nn.Module):
    """The encoder of a BERT as wide as the base one, 4 layers deep, ``[batch, sequence, 768]`` in and out.

    ``dropout``: the share that training drops, of activations and of attention.
    """

    def __init__(self, layers: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        dropped = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        config = transformers.BertConfig(attn_implementation="sdpa", **{**WIDE, "num_hidden_layers": layers, **dropped})
        self.encoder = transformers.BertModel(config, add_pooling_layer=False).encoder

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x).last_hidden_state


class Decoder(nn.Module):
    """The blocks of a GPT-2 as wide as the small one, 4 layers deep, ``[batch, sequence, 768]`` in and out."""

    def __init__(self) -> None:
        super().__init__()
        config = transformers.GPT2Config(n_positions=128, bos_token_id=0, eos_token_id=0, **WIDE)
        self.decoder = transformers.GPT2Model(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(inputs_embeds=x, use_cache=False).last_hidden_state


def lenet5() -> nn.Module:
    """The 61,706-parameter LeNet-5 for 28x28 images."""
    first, second = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
    convolutions = [first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(
        *convolutions, nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)
    )


def one_layer(m: int, n: int) -> nn.Module:
    """A model of one layer ``W [m, n]``."""
    return nn.Sequential(nn.Linear(n, m))


def linear(m: int, n: int) -> Workload:
    """One layer ``W [m, n]`` at 1, 128 and 1024 rows."""
    return Workload(f"{m}x{n}", partial(one_layer, m, n), {(rows, n): rows for rows in (1, 128, 1024)})


LINEARS = tuple(linear(*size) for size in ((768, 768), (3072, 768), (768, 3072), (4096, 4096)))
BERT = Workload("bert", Encoder, {(1, 128, 768): 128, (8, 128, 768): 1024}, ("batch", "sequence"))
BRIEF = replace(BERT, rows={(1, 1, 768): 1, (1, 16, 768): 16})
VIT = Workload("vit-small", partial(timm.create_model, "vit_small_patch16_224"), {(1, 3, 224, 224): 197})
GPT2 = Workload("gpt2", Decoder, {(1, 1, 768): 1}, ("batch", "sequence"))
LENET = Workload("lenet5", lenet5, {(1, 1, 28, 28): 1, (32, 1, 28, 28): 32})


def maps(model: nn.Module, block: tuple[int, int]) -> dict[str, Tensor]:
    """The weights ``W [m, n]`` of the linear maps by name, views of the model's own, that blocks ``(m2, n2)`` tile."""
    weights = {
        name: module.weight.detach().T if isinstance(module, Conv1D) else module.weight.detach()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    return {name: W for name, W in weights.items() if not (W.shape[0] % block[0] or W.shape[1] % block[1])}


def zero_blocks(model: nn.Module, block: tuple[int, int], share: float) -> int:
    """Set that share of the blocks of every linear map to zero, at random; returns the number of entries it was."""
    removed = 0
    for W in maps(model, block).values():
        m1, n1 = W.shape[0] // block[0], W.shape[1] // block[1]
        count = round(share * m1 * n1)
        mask = torch.ones(m1 * n1)
        mask[torch.randperm(m1 * n1)[:count]] = 0
        W *= torch.kron(mask.reshape(m1, n1), torch.ones(block))
        removed += count * math.prod(block)
    return removed


def export_dense(model: nn.Module, workload: Workload, path: Path) -> Path:
    """The model's ONNX file as torch writes it, without the stack traces, which would blur a comparison of bytes."""
    (shape, *_) = workload.rows
    program = torch.onnx.export(
        model,
        (workload.example(shape),),
        input_names=["x"],
        dynamo=True,
        dynamic_shapes=workload.dynamic_shapes,
        verbose=False,
    )
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]
    onnx.save(proto, path)
    return path


def sparse_initializers(source: Path, path: Path) -> Path:
    """The file with every matrix that is a third zeros or more as a SparseTensor: values and their flat positions."""
    proto = onnx.load(source)
    graph = proto.graph
    for tensor in list(graph.initializer):
        dense = numpy_helper.to_array(tensor)
        if dense.ndim != 2 or 3 * np.count_nonzero(dense) > 2 * dense.size:
            continue
        positions = np.flatnonzero(dense)
        values = numpy_helper.from_array(dense.ravel()[positions], tensor.name)
        indices = numpy_helper.from_array(positions.astype(np.int64), f"{tensor.name}/positions")
        graph.initializer.remove(tensor)
        graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, dense.shape))
    onnx.save(proto, path)
    return path
