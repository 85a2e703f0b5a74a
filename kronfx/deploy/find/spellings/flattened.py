"""Products between two Reshapes: exporters flatten the leading axes of sequences around a ``Gemm``."""

from __future__ import annotations

from dataclasses import replace

from kronfx.deploy.find.linear import Linear


def unflattened(linear: Linear) -> Linear:
    """Without the Reshape to ``[-1, n]`` in front and the one back behind, where that is all they do."""
    if linear.channels_first or linear.x_transposed:
        return linear
    before, uses = linear.x.producer(), list(linear.y.consumers())
    if before is None or before.op_type != "Reshape" or len(uses) != 1 or uses[0].op_type != "Reshape":
        return linear
    x, y = before.inputs[0], uses[0].outputs[0]
    if x is None or x.shape is None or y.shape is None:
        return linear
    if linear.y.is_graph_output() or uses[0].inputs[0] is not linear.y:
        return linear
    has_names = all(isinstance(dim, int) or dim.value is not None for dim in (*x.shape, *y.shape))
    m, n = linear.dims
    if not has_names or len(x.shape) < 2 or (*x.shape[:-1], m) != tuple(y.shape) or x.shape[-1] != n:
        return linear
    return replace(linear, x=x, y=y, around=(uses[0],))
