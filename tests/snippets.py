"""Every piece of Python that a person may copy: fenced blocks of pages, indented blocks of docstrings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parent.parent
FOLDERS = (".docs", ".github", "examples", "kronfx", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
FENCED = re.compile(r"(?:<!-- not run: (?P<why>[^>]+) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)
INDENTED = re.compile(r"\n\n(?P<code>(?:[ ]{4}.*\n|\n)+)")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


@dataclass(frozen=True)
class Snippet:
    """Code, where it stands, and ``why`` it is not run, if it is not."""

    place: str
    code: str
    why: str = ""


def fenced(page: Path, language: str) -> list[Snippet]:
    """The blocks of one language, in the order of the page."""
    place = page.relative_to(ROOT).as_posix()
    found = FENCED.finditer(page.read_text())
    return [Snippet(place, one["code"], one["why"] or "") for one in found if one["language"] == language]


def indented(path: Path) -> Iterator[Snippet]:
    """What is indented in the docstrings of a file, where it is Python; equations are not."""
    place = path.relative_to(ROOT).as_posix()
    for node in ast.walk(ast.parse(path.read_text())):
        said = ast.get_docstring(node) if isinstance(node, DOCUMENTED) else None
        name = getattr(node, "name", "")
        for one in INDENTED.finditer(f"{said}\n" if said else ""):
            code = dedent(one["code"])
            if is_python(code):
                yield Snippet(f"{place}: {name}" if name else place, code)


def is_python(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True
