"""``Gemm``: a product of two matrices with a bias, either of them transposed."""

from __future__ import annotations

import onnx_ir as ir

from kronfx.deploy.find.linear import Linear
from kronfx.deploy.find.spellings.flattened import unflattened
from kronfx.deploy.find.spellings.operand import no_matrix, number
from kronfx.deploy.find.spellings.static import static
from kronfx.deploy.nodes.values import is_constant, tensor_of


def gemm(node: ir.Node) -> Linear | str | None:
    """``x W^T + bias`` with ``W [m, n]`` where ``transB``, else ``W^T [n, m]``, or what was quantized."""
    x, weight = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if x is None or weight is None:
        return None
    transposed = not number(node, "transB", 0)
    if is_constant(x):
        return "multiplies by a constant from the left"
    answer: Linear | str | None
    if is_constant(weight):
        linear = Linear(node=node, x=x, y=node.outputs[0], weight=weight, transposed=transposed, bias=bias)
        answer = no_matrix(weight) or linear
    else:
        answer = static(node, x, weight, transposed)
    if not isinstance(answer, Linear):
        return answer
    if any(number(node, name, 1.0) != 1.0 for name in ("alpha", "beta")):
        return "scales its product or its bias (alpha, beta)"
    if number(node, "transA", 0):
        return "transposes its input (transA)"
    if answer.static:
        return answer
    m = answer.W.shape[0]
    if bias is not None and not (is_constant(bias) and tuple(tensor_of(bias).shape.numpy()) in ((m,), (1, m))):
        return f"adds a bias that is no constant vector of {m} entries"
    return unflattened(answer)
