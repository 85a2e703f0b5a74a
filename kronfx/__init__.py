"""kronfx: a torch.fx pass that rewrites the linear maps of any PyTorch model into Kronecker-factored subgraphs that
train cheaply, and folds them back into block-sparse weights that run fast as plain ONNX.

    import kronfx as kx

    model = kx.factorize(model)                      # plan, rewrite; then train as ever
    folded = kx.fold(model)                          # block-sparse weights
    kx.export_onnx(folded, "model.onnx", example)    # verified in onnxruntime

``kx.plan`` shows what would become of each layer, or fits a whole model into a budget, ``kx.inspect`` what has become,
``kx.tune`` lets the clock decide how each layer is evaluated, ``kx.train`` makes blocks vanish, ``kx.save`` and
``kx.load`` keep a model.
"""

from kronfx.errors import KronfxError
from kronfx.errors import heard as _heard

with _heard():
    from kronfx import train
    from kronfx.api import export_onnx, factorize, plan
    from kronfx.checkpoint import load, save
    from kronfx.clock import Tuning, calibrate, tune
    from kronfx.deploy import ExportReport, Timings, sparsify_onnx
    from kronfx.graph import draw, fold, graph, to_bsr
    from kronfx.layers import Factors, factors
    from kronfx.records import KroneckerShape, Plan, Rates, Solution
    from kronfx.report import Comparison, Report, compare, inspect
    from kronfx.solver import solve
    from kronfx.trained import prune, recover

__all__ = [
    "Comparison",
    "ExportReport",
    "Factors",
    "KroneckerShape",
    "KronfxError",
    "Plan",
    "Rates",
    "Report",
    "Solution",
    "Timings",
    "Tuning",
    "calibrate",
    "compare",
    "draw",
    "export_onnx",
    "factorize",
    "factors",
    "fold",
    "graph",
    "inspect",
    "load",
    "plan",
    "prune",
    "recover",
    "save",
    "solve",
    "sparsify_onnx",
    "to_bsr",
    "train",
    "tune",
]
