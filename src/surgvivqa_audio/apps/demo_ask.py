"""The right half of the page: how a question is asked, and its answer."""

from __future__ import annotations

from html import escape
from typing import Any

from surgvivqa_audio.apps.capability import Profile
from surgvivqa_audio.apps.visit import (
    MAX_TYPED,
    WAYS,
    Card,
    Visit,
    explanation,
    headline,
    type_label,
)
from surgvivqa_audio.errors import SurgVivqaError
from surgvivqa_audio.speech.phrasing import phrasing_bank
from surgvivqa_audio.speech.voices import HELD_OUT_VOICES, VOICES

ASK = {
    "microphone": "Microphone",
    "voice": "Built-in voice",
    "upload": "Upload",
    "typed": "Type",
}


def ask_panel(st: Any, visit: Visit) -> None:
    """Ask about the open clip in one of four ways; the answer becomes the visit's newest card."""
    st.subheader("Ask", anchor=False)
    way = st.radio(
        "How do you ask?", list(ASK), format_func=ASK.get, horizontal=True, label_visibility="collapsed"
    )
    panels = {"microphone": _microphone, "voice": _voice, "upload": _upload, "typed": _typed}
    try:
        panels[way](st, visit)
    except SurgVivqaError as error:
        st.error(str(error))


def _recording(st: Any, visit: Visit, way: Any, file: Any) -> None:
    """Answer a recording once, however often the page is drawn."""
    from surgvivqa_audio.apps.uploads import Upload, read_question

    state = st.session_state
    if file is None:
        return
    if state.get("answered") != file.file_id:
        state.answered, state.refusal = file.file_id, ""
        with st.spinner("Listening …"):
            try:
                visit.ask(way, read_question(Upload(file.name, file.getvalue())))
            except SurgVivqaError as error:
                state.refusal = str(error)
    # The message stays as long as the file does.
    if state.refusal:
        st.error(state.refusal)


def _microphone(st: Any, visit: Visit) -> None:
    # A new clip gets a new recorder; what was said about the old one is not asked again.
    file = st.audio_input("Record any question about this clip", sample_rate=16000, key=f"mic-{visit.serial}")
    st.caption("The answer comes when the recording ends. The sound is not kept.")
    _recording(st, visit, "microphone", file)


def _upload(st: Any, visit: Visit) -> None:
    # Any type may be sent, so that a refusal comes with its reason.
    file = st.file_uploader("Recording of a question, at most 30 seconds", key=f"sound-{visit.serial}")
    st.caption("WAV, FLAC, OGG, MP3, WebM or M4A.")
    _recording(st, visit, "upload", file)


def _voice(st: Any, visit: Visit) -> None:
    from surgvivqa_audio.apps import shared

    taxonomy = visit.engine.taxonomy
    if "bank" not in st.session_state:
        st.session_state.bank = phrasing_bank(taxonomy)
    kind = st.selectbox("Question type", list(taxonomy.types), format_func=type_label, key="voice_type")
    split = st.session_state.bank[kind]
    fresh = [*split.held_out, *split.new_words]
    notes = dict.fromkeys(fresh, " (wording never trained on)")
    wording = st.selectbox(
        "Wording", [*fresh, *split.train], format_func=lambda text: text + notes.get(text, "")
    )
    voice = st.selectbox(
        "Voice",
        [*HELD_OUT_VOICES, *VOICES],
        format_func=lambda one: one.id + (" (never trained on)" if one in HELD_OUT_VOICES else ""),
    )
    if st.button("Speak and ask", type="primary"):
        with st.spinner("Speaking …"):
            wave = shared.speak(wording, voice)
            visit.ask("voice", wave, wording, kind)
        st.session_state.spoken = (visit.cards[-1].number, wave)
    number, wave = st.session_state.get("spoken", (0, None))
    if wave is not None and visit.current() is visit.cards[number - 1]:
        st.audio(wave, sample_rate=16000)


def _typed(st: Any, visit: Visit) -> None:
    with st.form("typed", border=False):
        text = st.text_input("Type any question about this clip", max_chars=MAX_TYPED)
        asked = st.form_submit_button("Ask in writing")
    st.caption("A separate mode: the model reads the words and hears nothing.")
    if asked:
        with st.spinner("Reading …"):
            visit.ask("typed", question=text)


def answer_panel(st: Any, visit: Visit, profile: Profile | None) -> None:
    """The newest answer about this clip: sentence, options, times, what was measured, the truth on demand."""
    st.subheader("Answer", anchor=False)
    card = visit.current()
    if card is None:
        st.html('<div class="sv-answer"><p class="why">Ask a question and the answer appears here.</p></div>')
        return
    answer = card.answer
    st.html(answer_html(card, explanation(answer, visit.engine.taxonomy)))
    if answer.reason != "silence":
        st.html(options_html(card))
    times = answer.timings_ms
    st.caption(
        f"{WAYS[card.way].capitalize()}. Clip opened in {times['open_clip']:.0f} ms, "
        f"audio {times['audio']:.0f} ms, answer {times['answer']:.0f} ms."
    )
    st.caption(measured(card, profile))
    if st.toggle("Show ground truth", key="truth"):
        _truth(st, card)


def answer_html(card: Card, why: str) -> str:
    """The sentence, large, with its confidence."""
    answer = card.answer
    away = " away" if answer.abstained else ""
    sure = "" if answer.reason == "silence" else f" · confidence {100 * answer.confidence:.0f} %"
    return (
        f'<div class="sv-answer{away}" role="status"><p class="say">{escape(headline(answer))}</p>'
        f'<p class="why">{escape(why)}{sure}</p></div>'
    )


def options_html(card: Card) -> str:
    """Every option of the understood type with its probability."""
    rows = []
    for option in card.answer.options:
        share = 100 * option.probability
        best = ' class="best"' if option.sentence == card.answer.answer else ""
        rows.append(
            f"<tr{best}><td>{escape(option.sentence)}</td>"
            f'<td class="share"><div class="bar" style="width:{share:.1f}%"></div></td>'
            f'<td class="value">{share:.1f} %</td></tr>'
        )
    return f'<table class="sv-options" aria-label="Options">{"".join(rows)}</table>'


def measured(card: Card, profile: Profile | None) -> str:
    """What this model reached on this question type, beside the blind floor."""
    if profile is None:
        return "How often this model is right was not measured yet: no evaluation report was found."
    entry = profile.by_type.get(card.judged_type)
    if entry is None:
        return "The evaluation report holds no figure for this kind of question."
    where = "simulated clips" if profile.simulated else "the test clips"
    return (
        f"{type_label(card.judged_type)}, measured on {where}: right in {100 * entry.accuracy:.0f} % "
        f"(95 % interval {100 * entry.low:.0f} to {100 * entry.high:.0f}, {entry.rows} questions); "
        f"without looking, the best constant answer reaches {100 * entry.floor:.0f} %."
    )


def _truth(st: Any, card: Card) -> None:
    truth, right = card.truth.get(card.judged_type), card.correct()
    if not card.truth:
        st.info("Nobody has told the ground truth of this clip.")
    elif truth is None:
        st.info("The ground truth of this clip has no answer to what the model understood.")
    else:
        whose = "asked" if card.asked_type else "understood by the model"
        text = f"{type_label(card.judged_type)} ({whose}): {truth}. The answer is "
        (st.success if right else st.error)(text + ("right." if right else "wrong."))
    if card.truth:
        with st.expander("All that is known of this clip"):
            st.table([{"question type": type_label(k), "truth": v} for k, v in sorted(card.truth.items())])
