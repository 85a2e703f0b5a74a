"""Records -> text, dict, HTML."""

from kronfx.report.inspect import inspect
from kronfx.report.report import Layer, Report

__all__ = ["Layer", "Report", "inspect"]
