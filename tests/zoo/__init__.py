"""Tiny models of every kind, and one table that says what kronfx does to each."""

from __future__ import annotations

import importlib
import importlib.util
import os

from zoo.entry import Entry

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a model of the zoo is built from its configuration: nothing to fetch

FAMILIES = {
    "torch": "zoo.torch_models",
    "torchvision": "zoo.torchvision_models",
    "timm": "zoo.timm_models",
    "transformers": "zoo.hf_models",
}


def installed(family: str) -> bool:
    """Whether the library that a family's models come from is here."""
    return importlib.util.find_spec(family) is not None


def entries(family: str) -> tuple[Entry, ...]:
    """The models of one family; imports its library."""
    found: tuple[Entry, ...] = importlib.import_module(FAMILIES[family]).ENTRIES
    return found
