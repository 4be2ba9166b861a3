"""The right half of the page, below the question: the answer and how far to trust it."""

from __future__ import annotations

from html import escape
from typing import Any

from surgvivqa_audio.apps.capability import Profile
from surgvivqa_audio.apps.tables import table_html
from surgvivqa_audio.apps.visit import WAYS, Card, Visit, explanation, headline, type_label, verdict
from surgvivqa_audio.taxonomy import Taxonomy

EMPTY = '<div class="sv-answer"><p class="why">Ask a question and the answer appears here.</p></div>'


def answer_panel(st: Any, visit: Visit, profile: Profile | None) -> None:
    """The newest answer about this clip: sentence, options, times, what was measured, the truth on demand."""
    st.subheader("Answer", anchor=False)
    card = visit.current()
    if card is None:
        st.html(EMPTY)
        return
    answer = card.answer
    why = explanation(answer, visit.engine.taxonomy)
    if card.asked_type and not card.understood():
        why += f" (asked was “{type_label(card.asked_type)}”)"
    st.html(answer_html(card, why))
    if answer.reason != "silence":
        st.html(options_html(card))
        st.html(measured_html(card, profile))
    st.caption(f"{WAYS[card.way].capitalize()}.{'' if answer.reason == 'silence' else took(card)}")
    if st.toggle("Show ground truth", key="truth"):
        _truth(st, visit, card)


def answer_html(card: Card, why: str) -> str:
    """The sentence, large, with its confidence."""
    answer = card.answer
    away = " away" if answer.abstained else ""
    sure = "" if answer.reason == "silence" else f" · confidence {100 * answer.confidence:.0f} %"
    return (
        f'<div class="sv-answer{away}" role="status"><p class="say">{escape(headline(answer))}</p>'
        f'<p class="why">{escape(why)}{sure}</p></div>'
    )


def _line(text: str, share: float, digits: int, style: str = "") -> str:
    """One row with a bar; ``share`` 0..1."""
    percent = 100 * share
    return (
        f'<tr class="{style}"><td>{escape(text)}</td>'
        f'<td class="share"><div class="bar" style="width:{percent:.1f}%"></div></td>'
        f'<td class="value">{percent:.{digits}f} %</td></tr>'
    )


def options_html(card: Card) -> str:
    """Every option of the understood type with its probability."""
    rows = [
        _line(option.sentence, option.probability, 1, "best" if option.sentence == card.answer.answer else "")
        for option in card.answer.options
    ]
    return f'<table class="sv-options" aria-label="Options">{"".join(rows)}</table>'


def measured_html(card: Card, profile: Profile | None) -> str:
    """What this model reached on this question type, beside the blind floor; or that nobody measured it."""
    title = '<p class="title">How often is it right with such questions?</p>'
    entry = None if profile is None else profile.by_type.get(card.judged_type)
    if profile is None:
        body = '<p class="why">Not measured: this model comes without an evaluation report.</p>'
    elif entry is None:
        body = (
            '<p class="why">Not measured: the evaluation report has no figure for this kind of question.</p>'
        )
    else:
        where = "simulated ColonSim clips" if profile.simulated else "test clips"
        body = (
            '<table class="sv-options" aria-label="Measured">'
            + _line("This model", entry.accuracy, 0, "best")
            + _line("Always the same answer, without looking", entry.floor, 0, "floor")
            + f'</table><p class="why">{escape(type_label(card.judged_type))}: {entry.rows} questions about '
            f"{where}, 95&nbsp;% interval {100 * entry.low:.0f} to {100 * entry.high:.0f}&nbsp;%.</p>"
        )
    return f'<div class="sv-measured">{title}{body}</div>'


def _truth(st: Any, visit: Visit, card: Card) -> None:
    taxonomy = visit.engine.taxonomy
    show = {True: st.success, False: st.error, None: st.info}[card.correct()]
    show(verdict(card, taxonomy))
    if not card.asked_type and card.judged_type in card.truth:
        with st.container(horizontal=True):
            st.button(
                "Yes, I asked that",
                on_click=visit.confirm,
                args=(card.number, True),
                key=f"yes-{card.number}",
            )
            st.button(
                "No, something else",
                on_click=visit.confirm,
                args=(card.number, False),
                key=f"no-{card.number}",
            )
    if card.truth:
        with st.expander("All that is known of this clip"):
            st.html(table_html(known(card, taxonomy)))


def took(card: Card) -> str:
    """The times of an answer; silence never reaches the model and takes none."""
    times = card.answer.timings_ms
    return (
        f" Clip opened in {times['open_clip']:.0f} ms, audio {times['audio']:.0f} ms, "
        f"answer {times['answer']:.0f} ms."
    )


def known(card: Card, taxonomy: Taxonomy) -> list[tuple[str, str]]:
    """The clip's whole ground truth: question type and sentence."""
    return [
        (type_label(kind), taxonomy.types[kind].answer(short).sentence)
        for kind, short in sorted(card.truth.items())
    ]
