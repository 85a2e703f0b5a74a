"""The floors of every stage, read off the imports: by hand ``python tests/floors.py [folder of the package]``.

A floor is a step in the longest chain of imports, of modules or of the rooms they stand in (a folder, or a file right
below the stage). Before and after of a move: run it on two trees.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

Graph = Mapping[str, set[str]]  # what each module, or room, imports of the others


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: how many floors its rooms and its modules make, and its size. A circle of modules has no floors."""

    name: str
    rooms: int
    modules: int
    files: int
    lines: int
    circle: list[str]

    def __str__(self) -> str:
        row = f"{self.name:12}{self.rooms:8}{self.modules:9}{self.files:7}{self.lines:8}"
        return row + (f"  circle: {' -> '.join(self.circle)}" if self.circle else "")


def tree(package: Path) -> dict[str, str]:
    """``{path below the package: source}``."""
    return {path.relative_to(package).as_posix(): path.read_text() for path in sorted(package.rglob("*.py"))}


def imports(source: str) -> set[str]:
    """Every module a source imports, ``from torch import fx`` as ``torch`` and ``torch.fx``."""
    return {name for names in _imported(ast.parse(source)) for name in names}


def graph(sources: Mapping[str, str], stage: str) -> dict[str, set[str]]:
    """The modules of a stage, ``"lower.rewrite"``, its own ``__init__`` as ``""``, and what each imports of the others.

    ``from package import module`` means the module. Below ``if TYPE_CHECKING`` nothing is read at all.
    """
    modules = {_module(path): source for path, source in sources.items() if path.startswith(f"{stage}/")}
    named = {f"kronfx.{stage}.{name}".rstrip("."): name for name in modules}
    reads: dict[str, set[str]] = {}
    for name, source in modules.items():
        meant = [next((x for x in names if x in named), "") for names in _imported(ast.parse(source), typing=False)]
        reads[name] = {named[other] for other in meant if other} - {name}
    return reads


def rooms(modules: Graph) -> dict[str, set[str]]:
    """The same of the rooms: what any of its modules imports of another room."""
    found: dict[str, set[str]] = {}
    for name, others in modules.items():
        found.setdefault(room_of(name), set()).update({room_of(other) for other in others} - {room_of(name)})
    return found


def room_of(module: str) -> str:
    """``lower.lowerings.dense -> lower``."""
    return module.partition(".")[0]


def circle(modules: Graph) -> list[str]:
    """The modules of a circle in order, the first once more at its end; empty where there is none."""
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module not in done:
            done.add(module)
            for other in sorted(modules[module]):
                if met := walk(other, [*way, module]):
                    return met
        return []

    return next((met for module in sorted(modules) if (met := walk(module, []))), [])


def chain(modules: Graph) -> list[str]:
    """A longest chain of imports, the highest first; empty where there is a circle."""
    if circle(modules):
        return []
    below: dict[str, list[str]] = {}

    def walk(module: str) -> list[str]:
        if module not in below:
            below[module] = [module, *max(map(walk, sorted(modules[module])), key=len, default=[])]
        return below[module]

    return max(map(walk, sorted(modules)), key=len, default=[])


def stages(sources: Mapping[str, str]) -> list[Stage]:
    """Every folder of the package, in the order of its name."""
    found = []
    for name in sorted({path.partition("/")[0] for path in sources if "/" in path}):
        modules = graph(sources, name)
        lines = sum(len(source.splitlines()) for path, source in sources.items() if path.startswith(f"{name}/"))
        depth = len(chain(rooms(modules))), len(chain(modules))
        found.append(Stage(name, *depth, files=len(modules), lines=lines, circle=circle(modules)))
    return found


def _imported(node: ast.AST, typing: bool = True) -> Iterator[tuple[str, ...]]:
    """What each import may mean, the finest first: ``torch.fx``, ``torch``. A relative one begins with its dots."""
    if isinstance(node, ast.Import):
        yield from ((alias.name,) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = "." * node.level + (node.module or "")
        yield from ((f"{package}.{alias.name}", package) for alias in node.names)
    unread = not typing and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    for child in node.orelse if unread else ast.iter_child_nodes(node):
        yield from _imported(child, typing)


def _module(path: str) -> str:
    """``deploy/lower/__init__.py -> lower``."""
    parts = Path(path).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


if __name__ == "__main__":
    package = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "kronfx"
    print(f"{'stage':12}{'rooms':>8}{'modules':>9}{'files':>7}{'lines':>8}")
    print(*stages(tree(package)), sep="\n")
