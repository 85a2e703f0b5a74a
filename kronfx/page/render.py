"""A page as HTML text: templates filled, data as JSON, the charts' library inside."""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined

from kronfx.errors import KronfxError
from kronfx.files import write as write_file
from kronfx.page.columns import cells, columns
from kronfx.page.drawing import drawings
from kronfx.page.verdict import figure
from kronfx.page.view import Page, Sheet

_PAGES = Environment(
    loader=PackageLoader("kronfx.page", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)  # fmt: skip
_PAGES.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}


def write(page: Page, path: str | os.PathLike[str], error: type[KronfxError]) -> Path:
    """Write the page as one file, whole or not at all; returns its path. Raises ``error``."""
    return write_file(path, html(page).encode(errors="backslashreplace"), error)


def html(page: Page) -> str:
    """The page's text; everything in it is escaped."""
    before = {sheet.site: sheet for sheet in page.before}
    shown = columns(page)
    rows = [[cells(column, sheet, before.get(sheet.site)) for column in shown] for sheet in page.sheets]
    return _PAGES.get_template("page.html.j2").render(
        page=page,
        figures=[figure(gain) for gain in page.gains],
        columns=shown,
        rows=list(zip(count(), page.sheets, rows)),
        has_zeros=any(sheet.zero_blocks for sheet in page.sheets),
        ways=sorted({sheet.runs_as for sheet in page.sheets}),
        data={
            "layers": [_detail(sheet) for sheet in page.sheets],
            "before": {sheet.site: _detail(sheet) for sheet in page.before},
            "curves": [asdict(curve) for curve in page.curves],
            "figures": [asdict(curve) for curve in page.figures],
        },
        vega=_vega(),
    )


def _detail(sheet: Sheet) -> dict[str, Any]:
    """What the page's script reads: nothing that is not known."""
    known = {name: value for name, value in asdict(sheet).items() if value not in (None, "", ())}
    return {**known, "drawings": [asdict(drawing) for drawing in drawings(sheet)]}


@lru_cache(maxsize=1)
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, fit to stand inside an HTML page."""
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script.replace("</script", "<\\/script")
