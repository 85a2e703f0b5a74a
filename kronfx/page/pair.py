"""Two pages as one: what was, and what is."""

from __future__ import annotations

from dataclasses import replace

from kronfx.page.view import Page


def pair(before: Page, after: Page, command: str) -> Page:
    """The page of ``after``, held against ``before``: a figure that both know goes from one's to the other's."""
    earlier = {gain.name: gain.after for gain in before.gains}
    gains = [replace(gain, before=earlier.get(gain.name, gain.before)) for gain in after.gains]
    known = {gain.name for gain in gains}
    alone = [gain for gain in before.gains if gain.name not in known and gain.before is not None]
    return replace(
        after,
        title=before.title if before.title == after.title else f"{before.title} → {after.title}",
        kind=before.kind if before.kind == after.kind else f"{before.kind} → {after.kind}",
        gains=(*gains, *alone),
        verified=after.verified or before.verified,
        curves=after.curves or before.curves,
        figures=after.figures or before.figures,
        before=before.sheets,
        command=command,
    )
