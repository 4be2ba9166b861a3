"""The right half of the page: how a question is asked."""

from __future__ import annotations

from typing import Any

from surgvivqa_audio.apps.visit import MAX_TYPED, Visit, type_label
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
    kept = "kept for the export" if st.session_state.get("keep") else "not kept"
    st.caption(f"Press the microphone, ask, press stop: the answer comes at once. The sound is {kept}.")
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
