"""Small tables as HTML: Streamlit's own bring pandas to the server and megabytes of script to the browser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def table_html(rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> str:
    """Rows of cells under an optional head; a row's first cell names it. Numbers stand right."""
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    body = "".join(f"<tr>{''.join(_cell(at, value) for at, value in enumerate(row))}</tr>" for row in rows)
    top = f"<thead><tr>{titles}</tr></thead>" if head else ""
    return f'<table class="sv-table">{top}<tbody>{body}</tbody></table>'


def _cell(at: int, value: object) -> str:
    if at == 0:
        return f'<th scope="row">{escape(str(value))}</th>'
    style = ' class="number"' if isinstance(value, int | float) else ""
    return f"<td{style}>{escape(str(value))}</td>"
