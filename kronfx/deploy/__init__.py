"""Deployment: a rewritten torch model, or any ONNX file with block-sparse weights, becomes an ONNX file that is smaller
and faster in any standard runtime.

Two decisions a layer. *Storage*: of a weight that runs dense only the surviving blocks are stored, and constant nodes
rebuild it when the session loads. *Lowering*, what runs: ``dense`` (one matrix product), ``blocks`` (gathers and
batched products of the surviving blocks) or ``factors`` (the layer's own evaluation on operands computed once).
Standard operators only. The report says of every layer why it runs as it does, and which constants with zero blocks no
layer took. The way: ``export`` or ``sparsify`` make a dense graph, ``layers`` finds its linear maps,
``tuning`` chooses, ``rewrite`` lowers, ``pipeline`` writes, verifies and times.
"""

from kronfx.deploy.export import export
from kronfx.deploy.forecast import forecast
from kronfx.deploy.options import ExportKeywords, ExportOptions, Options
from kronfx.deploy.places import Places, places
from kronfx.deploy.read import read
from kronfx.deploy.records.forecast import Forecast
from kronfx.deploy.records.page import page_of_export, page_of_file
from kronfx.deploy.records.report import ExportedLayer, ExportReport, LeftWeight, OnnxSummary
from kronfx.deploy.records.timings import Timings
from kronfx.deploy.sparsify import sparsify_onnx

__all__ = [
    "ExportKeywords",
    "ExportOptions",
    "ExportReport",
    "ExportedLayer",
    "Forecast",
    "LeftWeight",
    "OnnxSummary",
    "Options",
    "Places",
    "Timings",
    "export",
    "forecast",
    "page_of_export",
    "page_of_file",
    "places",
    "read",
    "sparsify_onnx",
]
