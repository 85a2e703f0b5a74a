"""Small torchvision models through their classes, random weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torchvision.models as tv
from torch import nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import MBConvConfig
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.resnet import BasicBlock

from zoo.entry import Entry, image


def _entry(name: str, build: Callable[[], nn.Module], size: int = 32) -> Entry:
    return Entry(f"torchvision/{name}", "torchvision", build, image(size))


def _swin() -> Any:
    return tv.SwinTransformer(
        [2, 2], 16, [2, 2], [2, 4], [4, 4], mlp_ratio=2.0, stochastic_depth_prob=0.0, num_classes=10
    )


def _convnext() -> Any:
    return tv.ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], 0.0, num_classes=10)


def _mobilenet() -> Any:
    bneck = partial(InvertedResidualConfig, dilation=1, width_mult=1.0)
    settings = [
        bneck(16, 3, 16, 16, True, "RE", stride=2),
        bneck(16, 3, 32, 32, True, "HS", stride=1),
    ]
    return tv.MobileNetV3(settings, 64, num_classes=10)


def _efficientnet() -> Any:
    settings = [MBConvConfig(1, 3, 1, 8, 16, 1, 1.0, 1.0), MBConvConfig(4, 3, 2, 16, 32, 1, 1.0, 1.0)]
    return tv.EfficientNet(settings, 0.0, 0.0, num_classes=10)


ENTRIES = (
    _entry("vit", lambda: tv.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10)),
    _entry("swin", _swin),
    _entry("convnext", _convnext),
    _entry("resnet", lambda: tv.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10, width_per_group=64)),
    _entry("mobilenet_v3", _mobilenet),
    _entry("efficientnet", _efficientnet),
    _entry("squeezenet1_1", lambda: tv.SqueezeNet("1_1", num_classes=10), 64),
)
