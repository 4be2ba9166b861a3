"""A visit as JSON or as one self-contained HTML page. Frames are never part of it."""

from __future__ import annotations

import base64
from html import escape
from typing import Any

from surgvivqa_audio import __version__
from surgvivqa_audio.apps.visit import WAYS, Card, Visit, headline, type_label
from surgvivqa_audio.files import dump_json

NOTICE = "Research only, not for clinical use."

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
article { border-top: 1px solid #8885; padding: 1rem 0; }
h2 { font-size: 1.25rem; margin: 0 0 .25rem; }
table { border-collapse: collapse; } td { padding: .1rem 1rem .1rem 0; } .quiet { opacity: .75; }
"""


def _judgement(card: Card) -> dict[str, Any]:
    return {
        "type": card.judged_type or None,
        "truth": card.truth.get(card.judged_type),
        "question_understood": card.understood(),
        "correct": card.correct(),
    }


def visit_document(visit: Visit) -> dict[str, Any]:
    """Everything that was asked and answered, as plain values."""
    rows = []
    for card in visit.cards:
        row: dict[str, Any] = {
            "number": card.number,
            "clip": card.clip,
            "way": card.way,
            "question": card.question or None,
            "ground_truth": _judgement(card),
            **card.answer.to_dict(),
        }
        if card.recording:
            row["recording_wav_base64"] = base64.b64encode(card.recording).decode()
        rows.append(row)
    return {
        "notice": NOTICE,
        "version": __version__,
        "model": visit.engine.name,
        "performance_ms": visit.performance(),
        "questions": rows,
    }


def visit_json(visit: Visit) -> str:
    """The document as canonical JSON."""
    return dump_json(visit_document(visit))


def _card_html(card: Card) -> str:
    answer = card.answer
    options = "".join(
        f"<tr><td>{escape(option.sentence)}</td><td>{100 * option.probability:.1f} %</td></tr>"
        for option in answer.options
    )
    judgement = _judgement(card)
    truth = ""
    if judgement["truth"] is not None:
        verdict = {True: "right", False: "wrong", None: "not judged: was that the question?"}[card.correct()]
        truth = f"<p>Ground truth: {escape(judgement['truth'])} ({verdict})</p>"
    sound = ""
    if card.recording:
        data = base64.b64encode(card.recording).decode()
        sound = f'<audio controls src="data:audio/wav;base64,{data}"></audio>'
    asked = f"“{escape(card.question)}”, " if card.question else ""
    kind = f"Understood as {type_label(answer.question_type)}" if answer.question_type else "Abstained"
    return (
        f"<article><p class=quiet>{card.number}. {escape(card.clip)}: {asked}{WAYS[card.way]}</p>"
        f"<h2>{escape(headline(answer))}</h2>"
        f"<p>{escape(kind)}, confidence {100 * answer.confidence:.0f} %, "
        f"{answer.timings_ms['total']:.0f} ms</p>"
        f"<table>{options}</table>{truth}{sound}</article>"
    )


def visit_html(visit: Visit) -> str:
    """The document as one page without scripts."""
    cards = "".join(_card_html(card) for card in visit.cards) or "<p>No question was asked.</p>"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Questions and answers</title><style>{_STYLE}</style>"
        f"<h1>Questions and answers</h1><p><strong>{NOTICE}</strong> Model: {escape(visit.engine.name)}</p>"
        f"{cards}</html>\n"
    )
