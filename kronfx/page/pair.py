"""Two pages as one: what was, and what is."""

from __future__ import annotations

from dataclasses import replace

from kronfx.page.view import Page
from kronfx.tables import abbreviated


def pair(before: Page, after: Page, command: str) -> Page:
    """The page of ``after``, held against ``before``: a figure that both know goes from one's to the other's."""
    earlier = {gain.name: gain.after for gain in before.gains}
    gains = [replace(gain, before=earlier.get(gain.name, gain.before)) for gain in after.gains]
    known = {gain.name for gain in gains}
    alone = [gain for gain in before.gains if gain.name not in known and gain.before not in (None, gain.after)]
    return replace(
        after,
        title=before.title if before.title == after.title else f"{before.title} → {after.title}",
        kind=before.kind if before.kind == after.kind else f"{before.kind} → {after.kind}",
        gains=(*gains, *alone),
        verified=after.verified or before.verified,
        curves=after.curves or before.curves,
        figures=after.figures or before.figures,
        notes=(*after.notes, *_gone(before, after)),
        before=before.sheets,
        command=command,
    )


def _gone(before: Page, after: Page) -> list[str]:
    """The layers of ``before`` of which ``after`` says nothing, in a sentence if there are any."""
    there = {sheet.site for sheet in after.sheets} | {refusal.site for refusal in after.refusals}
    gone = [sheet.site for sheet in before.sheets if sheet.site and sheet.site not in there]
    return [f"before only ({len(gone):,} of {len(before.sheets):,} layers): {abbreviated(gone)}"] if gone else []
