"""The audit as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1f24; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #d5dbe1; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
code { font-size: .85em; overflow-wrap: anywhere; } .c { color: #4a5560; }
@media (prefers-color-scheme: dark) { body { background: #14181c; color: #e2e7ec; }
th, td { border-color: #38424c; } .c { color: #a8b4c0; } }
"""


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """An HTML table; every cell is escaped, numbers are set to the right."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=n' if _is_number(cell) else ''}>{escape(_show(cell))}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _show(value: Any) -> str:
    return "n/a" if value is None else str(value)


def audit_html(report: Mapping[str, Any]) -> str:
    """The page; no script, no link, nothing is loaded from elsewhere."""
    dataset = report["dataset"]
    rows = [
        ("file", dataset["file"]),
        ("SHA-256", dataset["sha256"]),
        ("pinned version", dataset["pinned_as"] or "no"),
        ("rows", report["rows"]),
        ("rows rejected", report["rejected"]["rows"]),
        ("unique ids", report["unique_ids"]),
        ("unique keys", report["unique_keys"]),
        ("question strings", report["question_strings"]),
        ("question types", len(report["types"])),
    ]
    videos = report["videos"]
    columns = list(next(iter(videos.values()))) if videos else []
    sections = [
        f"<h1>Audit of {escape(dataset['file'])}</h1>",
        table(("", ""), rows),
        "<h2>Findings</h2>",
        *map(_finding, report["findings"]),
        "<h2>Videos</h2>",
        table(("video", *columns), ((name, *each.values()) for name, each in videos.items())),
        "<h2>Question types</h2>",
        table(
            ("type", "rows", "only answer", "neighbours agree"),
            (
                (
                    name,
                    count,
                    report["constant_types"].get(name, ""),
                    report["neighbour_agreement"].get(name, ""),
                )
                for name, count in report["types"].items()
            ),
        ),
    ]
    title = f"Audit of {escape(dataset['file'])}"
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>{''.join(sections)}"
        '<p class="c">Research only, not for clinical use.</p></body></html>\n'
    )


def _finding(finding: Mapping[str, Any]) -> str:
    keys = "".join(f"<li><code>{escape(str(key))}</code></li>" for key in finding["keys"])
    examples = f"<details><summary>examples</summary><ul>{keys}</ul></details>" if keys else ""
    return (
        f"<h3>{escape(finding['name'])}: {escape(str(finding['count']))}</h3>"
        f"<p>{escape(str(finding['count']))} {escape(finding['what'])}.</p>"
        f'<p class="c">{escape(finding["consequence"])}</p>{examples}'
    )
