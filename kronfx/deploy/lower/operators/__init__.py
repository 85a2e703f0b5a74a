"""Operators that work feature-major as well as row-major. One file a family, one row an operator.

A rule looks at a node whose inputs are feature-major and either computes its outputs feature-major (True), or leaves
everything as it was (False): then whatever it reads becomes row-major.

To add an operator: a function from the layouts and a node to such a boolean, in the file of its family or one of its
own, and a row here. One that works element by element is a name in ``UNARY`` or ``SEVERAL``.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from kronfx.deploy.lower.layouts import Layouts
from kronfx.deploy.lower.operators.attention import reshape, split
from kronfx.deploy.lower.operators.axes import shape, swap
from kronfx.deploy.lower.operators.elementwise import SEVERAL, UNARY, elementwise
from kronfx.deploy.lower.operators.quantization import dequantize, quantize

Rule = Callable[[Layouts, ir.Node], bool]

RULES: dict[str, Rule] = {
    **dict.fromkeys((*UNARY.split(), *SEVERAL.split()), elementwise),
    "Cast": dequantize,
    "DynamicQuantizeLinear": quantize,
    "Split": split,
    "Reshape": reshape,
    "Shape": shape,
    "Transpose": swap,
}
