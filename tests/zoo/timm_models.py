"""Tiny timm models by name, reduced by their own arguments, random weights."""

from __future__ import annotations

from typing import Any

import timm
import timm.layers
from timm.models.mlp_mixer import MlpMixer

from zoo.entry import Entry, image

timm.layers.set_fused_attn(False)  # BEiT's fused attention is one that torch cannot export (torch 2.15)


def _entry(name: str, size: int, **config: Any) -> Entry:
    return Entry(
        f"timm/{name}",
        "timm",
        lambda: timm.create_model(name, pretrained=False, num_classes=10, **config),
        image(size),
    )


_VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}

ENTRIES = (
    _entry("vit_tiny_patch16_224", 32, **_VIT),
    _entry("deit_tiny_distilled_patch16_224", 32, **_VIT),
    _entry("beit_base_patch16_224", 32, **_VIT),
    _entry(
        "swin_tiny_patch4_window7_224",
        32,
        img_size=32,
        patch_size=2,
        window_size=4,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 4),
        drop_path_rate=0.0,
    ),
    Entry(
        "timm/mixer",  # the named mixers fix their own widths
        "timm",
        lambda: MlpMixer(num_classes=10, img_size=32, patch_size=8, num_blocks=2, embed_dim=32),
        image(32),
    ),
    _entry("convnext_atto", 32, dims=(16, 16, 32, 32), depths=(1, 1, 1, 1)),
    _entry("resnet18", 32, channels=(8, 16, 32, 32), layers=(1, 1, 1, 1), stem_width=8),
    _entry("mobilenetv3_small_050", 32),
    _entry("coatnet_0_rw_224", 64, img_size=64, embed_dim=(32, 32, 64, 64), depths=(1, 1, 1, 1), stem_width=(16, 16)),
)
