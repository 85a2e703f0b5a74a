"""Records -> text, dict, HTML."""

from kronfx.report.compare import Comparison, compare
from kronfx.report.inspect import inspect
from kronfx.report.report import Layer, Report

__all__ = ["Comparison", "Layer", "Report", "compare", "inspect"]
