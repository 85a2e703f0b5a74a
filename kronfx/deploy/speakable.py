"""Names of modules, parameters and buffers that torch's exporter can write code with.

It writes ``self.fc.weight`` and ``getattr(self.d, "a b").weight``, quotes and all: a keyword, a quote, a backslash or a
line's end in a name makes that no Python, and Python takes ``self.µ``, the micro sign, for the Greek letter. People
have such names, of classes or labels, in an ``nn.ModuleDict``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from keyword import iskeyword
from typing import Any
from unicodedata import normalize

from torch import nn

from kronfx.deploy.nodes.unique import Unique

normal = partial(normalize, "NFKC")  # of a name, as Python reads it in code
_HOLDERS = ("_modules", "_parameters", "_buffers")
_UNSAYABLE = re.compile(r'["\\]|[^\x20-\U0010ffff]|[\x7f-\x9f\u2028\u2029]')


@contextmanager
def speakable(model: nn.Module) -> Iterator[None]:
    """What a model's code calls by an unspeakable name is listed under another one for as long as this lasts."""
    aliased = [(module, held, vars(module)[held]) for module in model.modules() for held in _HOLDERS]
    aliased = [(module, held, named) for module, held, named in aliased if not all(map(_is_said, named))]
    try:
        for module, held, named in aliased:
            free = Unique({*dir(module), *named})
            names = {name: free(f"{_UNSAYABLE.sub('_', normal(name))}_") for name in named if not _is_said(name)}
            vars(module)[held] = _Aliased(named, names)
        yield
    finally:
        for module, held, named in aliased:
            vars(module)[held] = named


def _is_said(name: str) -> bool:
    is_itself = not name.isidentifier() or name == normal(name)
    return is_itself and not iskeyword(name) and _UNSAYABLE.search(name) is None


class _Aliased(dict[str, Any]):
    """What is ``named``, some of it under other ``names``, which answers to the old ones all the same."""

    def __init__(self, named: dict[str, Any], names: dict[str, str]) -> None:
        super().__init__({names.get(name, name): value for name, value in named.items()})
        self.names = names

    def __contains__(self, name: object) -> bool:
        return super().__contains__(self.names.get(str(name), name))

    def __missing__(self, name: str) -> Any:
        if name not in self.names:
            raise KeyError(name)
        return self[self.names[name]]
