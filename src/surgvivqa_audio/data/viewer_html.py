"""The viewer as one HTML file that loads nothing and runs only the script it carries."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files

from surgvivqa_audio.data.viewer import Page, Row, Shown
from surgvivqa_audio.taxonomy import Taxonomy

_FALLBACK_FPS = 25.0


def _asset(name: str) -> str:
    return (files("surgvivqa_audio.data") / name).read_text(encoding="utf-8")


def _json(table: Mapping[str, str]) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(table, ensure_ascii=True).replace("<", "\\u003c")


def page_html(page: Page, taxonomy: Taxonomy) -> str:
    """The whole page. Every text that comes from a file is escaped."""
    script, style = _asset("viewer.js"), _asset("viewer.css")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    notes = "".join(f"<li>{escape(text)}</li>" for text in page.unjoined)
    unjoined = (
        f"<details class=note><summary>{len(page.unjoined)} predictions are not shown</summary>"
        f"<ul>{notes}</ul></details>"
        if notes
        else ""
    )
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\n"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name=viewport content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(page.title)}</title>\n<style>{style}</style></head>\n<body>\n"
        f"<header><h1>{escape(page.title)}</h1>"
        "<span id=status role=status aria-live=polite></span></header>\n"
        f"{_controls(page)}\n<main>\n"
        + "\n".join(_article(row, place, taxonomy) for place, row in enumerate(page.rows))
        + f"\n</main>\n{unjoined}\n<footer>Keys: arrows or j k change the row, p plays the frames, comma and "
        "full stop step through them, s plays the question. Research only, not for clinical use.</footer>\n"
        f'<script type="application/json" id=pictures>{_json(page.pictures)}</script>\n'
        f'<script type="application/json" id=sounds>{_json(page.sounds)}</script>\n'
        f"<script>{script}</script>\n</body></html>\n"
    )


def _controls(page: Page) -> str:
    verdicts = [
        f"{verdict} {system}"
        for system in dict.fromkeys(shown.system for row in page.rows for shown in row.predictions)
        for verdict in ("right", "wrong")
    ]
    return (
        "<nav aria-label=Rows><button id=back type=button>Previous</button>"
        "<button id=next type=button>Next</button>"
        + _select("template", (row.sample.template for row in page.rows), "wording")
        + _select("type", (row.sample.question_type for row in page.rows), "type")
        + _select("video", (row.sample.video_id for row in page.rows), "video")
        + _choice("correct", [(_verdict_class(*each.split(" ", 1)), each) for each in verdicts], "answers")
        + "</nav>"
    )


def _select(name: str, values: Iterable[str], label: str) -> str:
    return _choice(name, [(value, value) for value in sorted(set(values))], label)


def _choice(name: str, options: list[tuple[str, str]], label: str) -> str:
    listed = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in options)
    return f'<label>{label} <select id=by-{name}><option value="">all</option>{listed}</select></label>'


def _verdict_class(verdict: str, system: str) -> str:
    """One word per verdict and system, so that a row can carry several of them."""
    return f"{verdict}-{hashlib.sha256(system.encode('utf-8')).hexdigest()[:10]}"


def _article(row: Row, place: int, taxonomy: Taxonomy) -> str:
    sample = row.sample
    verdicts = " ".join(
        _verdict_class("right" if shown.correct else "wrong", shown.system) for shown in row.predictions
    )
    numbers = sample.frame_numbers
    stride = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    interval = round(1000 * stride / (row.fps or _FALLBACK_FPS))
    kind = taxonomy.types.get(sample.question_type)
    domain = taxonomy.domains.get(kind.domain, "") if kind else ""
    rate = f"{row.fps:g} frames per second" if row.fps else "frame rate not known, played at 25"
    facts = (
        ("Answer", sample.answer),
        ("Short answer", sample.short_answer),
        ("Type", f"{sample.question_type} ({domain})"),
        ("Clip", f"{sample.video_id}, frames {numbers[0]} to {numbers[-1]}, {rate}"),
        ("Key", sample.key),
        ("Published id", sample.id),
    )
    listed = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts)
    return (
        f'<article id="row-{place}" data-key="{escape(sample.key)}" data-template="{sample.template}" '
        f'data-type="{escape(sample.question_type)}" data-video="{escape(sample.video_id)}" '
        f'data-correct="{verdicts}" data-interval="{interval}">'
        f"<h2 class=question>{escape(sample.question)}</h2>{_audio(row)}{_clip(row)}<dl>{listed}</dl>"
        f"{_predictions(row.predictions)}</article>"
    )


def _audio(row: Row) -> str:
    if row.audio is None:
        return "<p class=note>No recording of this question.</p>"
    return f'<audio controls preload=none data-sound="{escape(row.audio)}"></audio>'


def _clip(row: Row) -> str:
    missing = "".join(f"<p class=missing>{escape(text)}</p>" for text in row.missing)
    if not row.frames:
        return missing
    strip = "".join(
        f'<li><img data-frame="{escape(name)}" alt="Frame {escape(name)}"><span>{escape(name)}</span></li>'
        for name in row.frames
    )
    return (
        f'<div class=clip><div class=flip><img alt="The clip, one frame at a time">'
        f"<button class=play type=button>Play</button> <span class=count></span></div>"
        f"<ul class=strip>{strip}</ul></div>{missing}"
    )


def _predictions(predictions: list[Shown]) -> str:
    if not predictions:
        return ""
    rows = "".join(
        f"<tr><td>{escape(shown.system)}</td><td>{escape(shown.text or shown.error or '')}</td>"
        f"<td class={'right' if shown.correct else 'wrong'}>{'right' if shown.correct else 'wrong'}</td>"
        f"<td>{'' if shown.confidence is None else f'{shown.confidence:.2f}'}</td></tr>"
        for shown in predictions
    )
    head = "<tr><th>System</th><th>Answer</th><th>Verdict</th><th>Confidence</th></tr>"
    return f"<table class=predictions><thead>{head}</thead><tbody>{rows}</tbody></table>"
