"""Deployment: a rewritten torch model becomes an ONNX file that any standard runtime loads.

Two decisions a layer. *Storage*: of a folded weight only the surviving blocks are stored, and constant nodes
rebuild the dense weight when the session loads. *Lowering*, what runs: ``dense`` (one matrix product) for
folded layers, ``factors`` (the layer's own evaluation, on operands computed once) for factored ones. Standard
operators only.
"""

from kronfx.deploy.export import export
from kronfx.deploy.read import read
from kronfx.deploy.records import ExportedLayer, ExportReport, OnnxSummary

__all__ = ["ExportReport", "ExportedLayer", "OnnxSummary", "export", "read"]
