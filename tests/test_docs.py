"""The site builds without a warning, from docstrings and pages; what it promises is on it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from snippets import ROOT

import kronfx as kx

PAGES = ROOT / ".docs" / "pages"
MEASURED = ("README.md", "kronfx/README.md", "examples/benchmarks/README.md", "examples/paper/README.md")
FIGURE = re.compile(r"\d[\d.,]*\d(?:x|%)?|\d+(?:x|%)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(package, reason="the site is built with mkdocs-material and mkdocstrings[python]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", ".docs/mkdocs.yml", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_public_name_is_on_the_site(site: Path) -> None:
    for room, module in (("kronfx", kx), ("kronfx.train", kx.train)):
        text = (site / "api" / f"{room}.html").read_text()
        names = [f"{room}.{name}" for name in module.__all__ if f"{room}.{name}" != "kronfx.train"]
        assert [name for name in names if f'id="{name}"' not in text] == []
        assert not re.search(r":(?:func|class|meth|mod):", text)


def test_options_of_the_verbs_are_on_the_site(site: Path) -> None:
    """They are added to docstrings when kronfx is imported, so that a reader of the source alone would miss them."""
    text = (site / "api" / "kronfx.html").read_text()
    for option in ("max_params", "batch_sizes", "optimize_for", "shares"):
        assert f"<code>{option}</code>" in text, option


def test_examples_decisions_and_pages_are_on_the_site(site: Path) -> None:
    wanted = {f"examples/{script.stem}.html" for script in (ROOT / "examples").glob("*.py")}
    wanted |= {f"kronfx/decisions/{page.stem}.html" for page in (ROOT / "kronfx" / "decisions").glob("[!R]*.md")}
    wanted |= {f"{page.stem}.html" for page in PAGES.glob("*.md")} | {"index.html", "kronfx/decisions/index.html"}
    assert {name for name in wanted if not (site / name).is_file()} == set()


def test_nothing_of_the_site_is_fetched_from_elsewhere(site: Path) -> None:
    fetched = re.compile(
        r'<(?:script|img|iframe)[^>]* src="(?:https?:)?//|<link[^>]*rel="stylesheet"[^>]*href="(?:https?:)?//'
    )
    assert [page.name for page in site.rglob("*.html") if fetched.search(page.read_text())] == []


def figures(text: str) -> set[str]:
    return {figure.rstrip(".,x%") for figure in FIGURE.findall(re.sub(r"```python.*?```", "", text, flags=re.DOTALL))}


def test_the_page_of_losses_has_no_figures_of_its_own() -> None:
    found = figures((PAGES / "limits.md").read_text())
    assert len(found) > 30
    assert found - set().union(*(figures((ROOT / page).read_text()) for page in MEASURED)) == set()
