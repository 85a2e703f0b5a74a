"""Forms: operators that say in one word what ONNX's simpler ones say in a few, spelled out where that shows a product.

What is spelled out is a weight's product in the words that ``spellings`` know. A runtime makes one word of it again
where it has one for what is left dense.

To add a form: a file with a function from a ``Builder`` and a node to the value that takes the place of its output, or,
in half a sentence about the node, why it stays, or None where it has no constant to multiply by; a row here.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from kronfx.deploy.find.forms.dynamic import dynamic, integer
from kronfx.deploy.find.forms.einsum import einsum
from kronfx.deploy.nodes.builder import Builder

Form = Callable[[Builder, ir.Node], ir.Value | str | None]

FORMS: dict[str, Form] = {
    "Einsum": einsum,
    "com.microsoft.DynamicQuantizeMatMul": dynamic,
    "com.microsoft.MatMulIntegerToFloat": integer,
}
KEPT = "kronfx: form"  # in the meta of a node: why it was not spelled out


def spell_out(graph: ir.Graph) -> None:
    """In place; bodies of ``If`` and ``Loop`` are left alone."""
    build = Builder(graph)
    for node in list(graph):
        form = FORMS.get(f"{node.domain}.{node.op_type}".lstrip("."))
        if form is None:
            continue
        build.anchor, start = node, len(build.made)
        answer = form(build, node)
        if isinstance(answer, ir.Value):
            _take_place(answer, node.outputs[0])
            for made in build.made[start:]:
                made.meta.update(node.meta)
                made.metadata_props.update(node.metadata_props)
            graph.remove(node, safe=True)
        elif answer is not None:
            node.meta[KEPT] = answer


def _take_place(made: ir.Value, output: ir.Value) -> None:
    made.shape, made.type = output.shape, output.type
    ir.convenience.replace_all_uses_with(output, made, replace_graph_outputs=True)
    made.name, output.name = output.name, None
