"""Parts as a piece of HTML for a notebook's cell: its colours, light or dark, are the notebook's own."""

from __future__ import annotations

import base64
from collections.abc import Iterable

from jinja2 import Environment

from kronfx.tables.parts import Part, Table
from kronfx.tables.words import visible

_JINJA = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
_JINJA.filters["visible"] = visible
_PIECE = _JINJA.from_string("""<div class="kronfx-shown">
<style>
.kronfx-shown { font-size: 13px; line-height: 1.5; color: inherit; }
.kronfx-shown div { overflow: auto; max-height: 40em; margin: .5em 0; }
.kronfx-shown table { border-collapse: collapse; color: inherit; background: none; margin: 0; }
.kronfx-shown caption { text-align: left; font-weight: 600; padding: .2em 0; color: inherit; white-space: nowrap; }
.kronfx-shown th, .kronfx-shown td { text-align: left; padding: .15em .7em; white-space: nowrap; color: inherit;
  border: 0; border-bottom: 1px solid rgba(128, 128, 128, .35); font-weight: normal; max-width: none; }
.kronfx-shown thead th { font-weight: 600; border-bottom: 2px solid rgba(128, 128, 128, .8); }
.kronfx-shown .number { text-align: right; font-variant-numeric: tabular-nums; }
.kronfx-shown tfoot td, .kronfx-shown tfoot th { font-weight: 600; border-top: 2px solid rgba(128, 128, 128, .8); }
.kronfx-shown p { white-space: pre-wrap; margin: .5em 0; }
.kronfx-shown img { background: #fff; max-width: 100%; }
</style>
{% macro line(cells, numeric) %}
<tr>{% for cell in cells %}
{% set number = ' class="number"' | safe if numeric[loop.index0] else "" %}
{% if loop.first %}<th scope="row"{{ number }}>{{ cell }}</th>{% else %}<td{{ number }}>{{ cell }}</td>{% endif %}
{% endfor %}</tr>
{% endmacro %}
{% for part in parts %}
{% if part is string %}
<p>{{ part.split("\n") | map("visible") | join("\n") }}</p>
{% elif part.svg %}
<img alt="{{ part.words }}" src="data:image/svg+xml;base64,{{ encoded(part.svg) }}">
{% else %}
{% set numeric = part.numeric() %}
<div role="region" tabindex="0" aria-label="{{ part.title | visible }}"><table>
<caption>{{ part.title | visible }}</caption>
<thead><tr>{% for header in part.headers() %}
<th scope="col"{% if numeric[loop.index0] %} class="number"{% endif %}>{{ header }}</th>
{% endfor %}</tr></thead>
<tbody>
{% for cells in part.cells()[: part.rows | length] %}
{{ line(cells, numeric) }}
{% endfor %}
</tbody>
{% if part.totals %}<tfoot>{{ line(part.cells()[-1], numeric) }}</tfoot>{% endif %}

</table></div>
{% endif %}
{% endfor %}
</div>
""")


def html(parts: Iterable[Part]) -> str:
    """The piece; everything in it is escaped. Rows of layers alike are one, wide and long tables scroll."""
    shown = [part.folded().said() if isinstance(part, Table) else part for part in parts]
    return _PIECE.render(parts=shown, encoded=lambda svg: base64.b64encode(svg.encode()).decode())
