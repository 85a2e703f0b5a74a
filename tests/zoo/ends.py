"""Which maps of the zoo's models end a residual branch, by the names that their architects gave them."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import torch
from torch import nn

import kronfx as kx
from kronfx.graph import branches, discover
from zoo.entry import Entry, call
from zoo.outcome import Outcome

STEPS = 3

_BLOCKS = r"(.*\.)?(layers?|blocks?|h)\.\d+\."

# Model, as a glob -> the names of its ends and how many there are: two a layer, three where it attends to another
# sequence too, one a convolutional block (where it has a shortcut), all of a mixture's experts together.
EXPECTED: dict[str, tuple[str, int]] = {
    "torch/TransformerEncoder*": (r".*(self_attn\.out_proj|linear2)", 4),
    "torch/Transformer*": (r".*(self_attn\.out_proj|multihead_attn\.out_proj|linear2)", 5),
    "torch/MultiheadAttention*": (r"none", 0),
    "torchvision/vit": (r".*encoder_layer_\d\.(self_attention\.out_proj|mlp\.3)", 4),
    "torchvision/swin": (r"features\.[13]\.\d\.(attn\.proj|mlp\.3)", 8),
    "torchvision/convnext": (r"features\.[13]\.\d\.block\.5", 2),
    "torchvision/resnet": (r"layer[1-4]\.0\.conv2", 4),
    "torchvision/mobilenet_v3": (
        r"none",
        0,
    ),  # both of its blocks change the size of what goes through, and add nothing
    "torchvision/efficientnet": (r"none", 0),
    "torchvision/squeezenet1_1": (r"none", 0),
    "timm/convnext*": (r"stages\.\d\.blocks\.0\.mlp\.fc2", 4),
    "timm/resnet18": (r"layer[1-4]\.0\.conv2", 4),
    "timm/mixer": (r"blocks\.\d\.mlp_(tokens|channels)\.fc2", 4),
    "timm/mobilenetv3*": (r"blocks\.(1\.1|2\.[12]|3\.[01]|4\.[12])\.conv_pwl", 7),
    "timm/coatnet*": (r"stages\.\d\.blocks\.0\.(conv3_1x1|attn\.proj|mlp\.fc2)", 6),
    "timm/swin*": (_BLOCKS + r"(attn\.proj|mlp\.fc2)", 8),
    "timm/*": (_BLOCKS + r"(attn\.proj|mlp\.fc2)", 4),
    "hf/*bert*": (_BLOCKS + r"(attention\.output\.dense|output\.dense|attention\.out_lin|ffn\.lin2)", 4),
    "hf/gpt2": (_BLOCKS + r"(attn|mlp)\.c_proj", 4),
    "hf/gpt-oss": (_BLOCKS + r"(self_attn\.o_proj|mlp\.experts\.down_proj)", 4),
    "hf/mixtral": (_BLOCKS + r"(self_attn\.o_proj|mlp\.experts\.down_proj)", 4),
    "hf/qwen3-moe": (_BLOCKS + r"(self_attn\.o_proj|mlp\.experts\.down_proj)", 4),
    "hf/llama": (_BLOCKS + r"(self_attn\.o_proj|mlp\.down_proj)", 4),
    "hf/qwen3": (_BLOCKS + r"(self_attn\.o_proj|mlp\.down_proj)", 4),
    "hf/deberta*": (_BLOCKS + r"(attention\.output\.dense|output\.dense)", 4),
    "hf/opt": (_BLOCKS + r"(self_attn\.out_proj|fc2)", 4),
    "hf/t5": (_BLOCKS + r"layer\.\d\.(SelfAttention\.o|EncDecAttention\.o|DenseReluDense\.wo)", 10),
    "hf/bart": (_BLOCKS + r"(self_attn\.out_proj|encoder_attn\.out_proj|fc2)", 10),
    "hf/whisper": (_BLOCKS + r"(self_attn\.out_proj|encoder_attn\.out_proj|fc2)", 10),
    "hf/vit": (_BLOCKS + r"(attention\.o_proj|mlp\.fc2)", 4),
    "hf/swin": (_BLOCKS + r"(attention\.o_proj|mlp\.fc2)", 8),
    "hf/clip": (_BLOCKS + r"(self_attn\.out_proj|mlp\.fc2)", 8),
    "hf/wav2vec2": (_BLOCKS + r"(attention\.out_proj|feed_forward\.output_dense)", 4),
    "hf/mamba": (_BLOCKS + r"mixer\.out_proj", 2),
}


def found_ends(entry: Entry) -> Outcome:
    """What ``zero_start="residual"`` means is what the names say, to the last map, and it learns."""
    dense = entry.model()
    matches = discover(dense).matches
    pattern, count = next(value for glob, value in EXPECTED.items() if fnmatchcase(entry.name, glob))
    wanted = {match.site.name for match in matches if re.fullmatch(pattern, match.site.name)}
    if len(wanted) != count:
        return Outcome("fails", f"{len(wanted)} maps are called {pattern}, of {count}")
    for inputs, found in (("its", branches(dense, matches, entry.batch(2))), ("guessed", branches(dense, matches))):
        missed, taken = sorted(wanted - found.ends), sorted(found.ends - wanted)
        if missed or taken:
            return Outcome("fails", f"on {inputs} inputs missed {missed}, took {taken}")
    model = kx.factorize(dense, rank="full", include=sorted(wanted)) if wanted else dense
    still = _still(entry, model)
    return (
        Outcome("fails", f"no gradient in {STEPS} steps: {', '.join(still)}") if still else Outcome("holds", str(count))
    )


def _still(entry: Entry, model: nn.Module) -> list[str]:
    """Factors that have had no gradient. All are due in the second step, behind a cross-attention in the third."""
    left = {f"{site}.{k}": p for site, f in kx.factors(model).items() for k, p in (("S", f.S), ("A", f.A), ("B", f.B))}
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-3)
    for _ in range(STEPS if left else 0):
        optimizer.zero_grad()
        entry.loss(call(model, entry.batch(4))).backward()
        left = {name: p for name, p in left.items() if p.grad is None or not p.grad.any()}
        optimizer.step()
    return sorted(left)
