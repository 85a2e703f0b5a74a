"""What a model may be fed: inputs guessed from its layers, its configuration and its forward's signature."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

Call = tuple[tuple[Any, ...], dict[str, Any]]

LENGTHS = (8, 4)  # of a sequence of tokens
SIDES = (224, 64, 32, 28)  # of an image whose size nothing tells
_SIDE_NAMES = ("image_size", "img_size", "input_size")


def guesses(model: nn.Module) -> Iterator[Call]:
    """Calls that may run, the likelier first. Floating tensors are on the meta device, tokens are real."""
    if isinstance(model, fx.GraphModule):
        yield from _captured(model)
    config = getattr(model, "config", None)
    if hasattr(config, "to_dict"):
        yield from _configured(model, config)
    required = _required(model)
    for tensor in itertools.islice(_tensors(model), 24):
        yield (tensor,) * len(required), {}


def _captured(graph: fx.GraphModule) -> Iterator[Call]:
    """An exported program's graph knows what it was captured with."""
    values = [node.meta.get("val") for node in graph.graph.nodes if node.op == "placeholder"]
    if values and all(isinstance(value, Tensor) for value in values):
        yield tuple(_like(value) for value in values if isinstance(value, Tensor)), {}


def _like(value: Tensor) -> Tensor:
    sizes = [int(size) if isinstance(size, int) else 2 for size in value.shape]
    return _floats(*sizes, dtype=value.dtype) if value.is_floating_point() else torch.ones(sizes, dtype=value.dtype)


def _configured(model: nn.Module, config: Any) -> Iterator[Call]:
    """Models that carry a configuration: inputs by the names in their forward's signature."""
    names = list(inspect.signature(model.forward).parameters)
    inside = [config, *(v for v in vars(config).values() if hasattr(v, "to_dict"))]

    def of(name: str, default: Any) -> Any:
        return next((getattr(c, name) for c in inside if getattr(c, name, None) is not None), default)

    side = of("image_size", 224)
    height, width = side if isinstance(side, (tuple, list)) else (side, side)
    bins, frames = of("num_mel_bins", 80), of("max_length", 1024)
    heard = 2 * of("max_source_positions", 1500)
    for length in LENGTHS:
        ids = torch.full((2, length), 5, dtype=torch.long)
        ids[:, -1] = end if isinstance(end := of("eos_token_id", None), int) and end >= 0 else 5
        given: dict[str, Tensor] = {
            "input_ids": ids,
            "decoder_input_ids": ids,
            "pixel_values": _floats(2, of("num_channels", 3), height, width),
            "input_features": _floats(2, bins, heard),
        }
        for values in (_floats(2, 4000), _floats(2, frames, bins)):
            all_names = given | {"input_values": values}
            main = str(getattr(model, "main_input_name", "input_ids"))
            chosen = [main, "decoder_input_ids"] if getattr(config, "is_encoder_decoder", False) else [main]
            several = [name for name in names if name in ("input_ids", "pixel_values", "input_values", main)]
            for some in (chosen, several):
                yield (), {name: all_names[name] for name in some if name in all_names and name in names}


def _required(model: nn.Module) -> list[str]:
    """The parameters of the forward that have no default; one where it does not say."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    found = [p.name for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty]
    return found or ["input"]


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Inputs of the first layers, one of each kind, in the model's own order."""
    seen: set[type] = set()
    sides = [*dict.fromkeys([*_sides(model), *SIDES])]
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    for module in model.modules():
        if type(module) not in seen:
            seen.add(type(module))
            for tensor in _fitting(module, sides):
                yield tensor.to(dtype) if tensor.is_floating_point() else tensor
    for parameter in model.parameters():
        if parameter.ndim == 2:
            for features in parameter.shape[::-1]:
                yield _floats(2, 8, features, dtype=dtype)


def _fitting(module: nn.Module, sides: list[int]) -> list[Tensor]:
    if isinstance(module, nn.Embedding):
        return [torch.ones(2, length, dtype=torch.long) for length in LENGTHS]
    if isinstance(module, nn.Conv2d):
        return [_floats(2, module.in_channels, side, side) for side in sides]
    if isinstance(module, nn.Conv1d):
        return [_floats(2, module.in_channels, 400), _floats(2, module.in_channels, 4000)]
    if isinstance(module, nn.Conv3d):
        return [_floats(2, module.in_channels, 16, 64, 64)]
    features = getattr(module, "in_features", getattr(module, "embed_dim", None))
    shape = getattr(module, "normalized_shape", None)
    if features is None and isinstance(shape, tuple):
        features = shape[-1]
    if not isinstance(features, int):
        return []
    return [_floats(2, 8, features), _floats(2, features), _floats(2, 8, 8, features)]


def _sides(model: nn.Module) -> Iterator[int]:
    """What a model says about the size of its images."""
    for module in model.modules():
        for name in _SIDE_NAMES:
            value = vars(module).get(name)
            first = value[-1] if isinstance(value, (tuple, list)) and value else value
            if isinstance(first, int) and first > 0:
                yield first
    settings = getattr(model, "default_cfg", None)
    size = settings.get("input_size") if isinstance(settings, dict) else None
    if isinstance(size, (tuple, list)):
        yield int(size[-1])


def _floats(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(sizes, dtype=dtype, device="meta")
