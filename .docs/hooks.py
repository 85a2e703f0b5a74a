"""What mkdocs asks while it builds the site.

Pages that stand elsewhere in the repository keep their places and so their links; each example script is a page; every
public name of kronfx is on a page of its room.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import kronfx as kx

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\]\((?!https?:|#)([^)\s#]+)")
ROOMS = {"kronfx": kx, "kronfx.train": kx.train}
DECISIONS = "kronfx/decisions"


def scripts() -> list[Path]:
    """The examples, but for those with a table beside them."""
    return sorted((ROOT / "examples").glob("*.py"))


def decisions() -> list[str]:
    """Paths of their pages, in the order of their names."""
    return sorted(f"{DECISIONS}/{page.name}" for page in (ROOT / DECISIONS).glob("*.md") if page.name != "README.md")


def pages() -> list[str]:
    """Paths of the Markdown files that are shown as they are."""
    first = ["README.md", "CHANGELOG.md", ".github/CONTRIBUTING.md", "kronfx/README.md", f"{DECISIONS}/README.md"]
    return [*first, "examples/benchmarks/README.md", "examples/paper/README.md", "tests/zoo/README.md", *decisions()]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The order of the pages."""
    config.nav = [
        {"Start": "README.md"},
        {"When factoring loses": "limits.md"},
        {"Looking": "looking.md"},
        {"API": [{room: f"api/{room}.md"} for room in ROOMS]},
        {"Examples": [{script.stem: f"examples/{script.stem}.md"} for script in scripts()]},
        {"Measured": [{"Benchmarks": "examples/benchmarks/README.md"}, {"The paper": "examples/paper/README.md"},
                      {"The zoo": "tests/zoo/README.md"}]},
        {"Inside": [{"The house": "kronfx/README.md"}, {"Contributing": "github/CONTRIBUTING.md"},
                    {"Changes": "CHANGELOG.md"}]},
        {"Decisions": [f"{DECISIONS}/README.md", *decisions()]},
    ]  # fmt: skip
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """All that does not stand in ``.docs/pages``."""
    texts = {shown(name): (ROOT / name).read_text() for name in pages()}
    texts |= {f"examples/{script.stem}.md": example(script) for script in scripts()}
    texts |= {f"api/{room}.md": api(room, module) for room, module in ROOMS.items()}
    for name, text in texts.items():
        files.append(File.generated(config, name, content=text))
    for name, text in texts.items():
        for link in LINK.findall(text):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
            if (ROOT / target).is_file() and files.get_file_from_path(shown(target)) is None:
                files.append(File(target, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def shown(name: str) -> str:
    """Where a page is on the site, which has no hidden folders."""
    return name.lstrip(".")


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links into hidden folders, and those out of this one, as the site has them."""
    if "/" not in page.file.src_uri:
        markdown = markdown.replace("](../../", "](").replace("](.github/", "](github/")
    return markdown.replace("](../.github/", "](../github/")


def example(script: Path) -> str:
    """A script as a page: what it says of itself, and itself."""
    source = script.read_text()
    said = ast.get_docstring(ast.parse(source)) or ""
    return f"# {script.stem}\n\n```text\n{said}\n```\n\n```python\n{source}```\n"


def api(room: str, module: Any) -> str:
    """A page of all public names of a module."""
    entries = "\n".join(f"::: {room}.{name}\n" for name in module.__all__ if f"{room}.{name}" not in ROOMS)
    return f"# {room}\n\n{(module.__doc__ or '').strip()}\n\n{entries}"
