"""The report as one self-contained HTML page: no script, no download."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment

from kronfx.records import Refusal

_PAGE = Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>kronfx report</title><style>
.kronfx { font: 14px/1.5 system-ui, sans-serif; color: #1c2330; margin: 2em; }
.kronfx h1 { font-size: 1.1em; } .kronfx h2 { font-size: 1em; margin-top: 2em; }
.kronfx table { border-collapse: collapse; }
.kronfx th { text-align: left; border-bottom: 2px solid #9aa5b8; padding: .2em .8em; }
.kronfx td { border-bottom: 1px solid #e3e7ee; padding: .2em .8em; }
.kronfx td.number { text-align: right; font-variant-numeric: tabular-nums; }
</style></head><body class="kronfx"><h1>{{ title }}</h1>
{% if rows %}<table><thead><tr>{% for h in headers %}<th>{{ h }}</th>{% endfor %}</tr></thead><tbody>
{% for row in rows %}<tr>{% for cell in row %}{% if cell is number %}<td class="number">{{ "{:,}".format(cell) }}</td>
{%- else %}<td>{{ "" if cell is none else cell }}</td>{% endif %}{% endfor %}</tr>
{% endfor %}</tbody></table>{% endif %}
{% if refusals %}<h2>left alone: {{ refusals | length }}</h2>
<table><thead><tr><th>weight</th><th>kind</th><th>dims</th><th>reason</th></tr></thead><tbody>
{% for r in refusals %}<tr><td>{{ r.site }}</td><td>{{ r.kind }}</td><td>{{ r.dims | join("x") }}</td>
<td>{{ r.reason }}</td></tr>
{% endfor %}</tbody></table>{% endif %}
</body></html>
""")


def page(title: str, headers: Sequence[str], rows: Sequence[Sequence[object]], refusals: Sequence[Refusal]) -> str:
    """The page's text; everything in it is escaped."""
    return _PAGE.render(title=title, headers=headers, rows=rows, refusals=refusals)
