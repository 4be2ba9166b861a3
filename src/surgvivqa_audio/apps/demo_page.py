"""The page of `surgvivqa demo`, a thin view; Streamlit runs this file once per interaction."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from surgvivqa_audio.apps.serve import Settings, admits, read_settings

NOTICE = "Research only, not for clinical use."
NANO = (
    "This is the small built-in model. It knows synthetic voices and simulated scenes only, "
    "and abstains on what it does not recognise."
)
ALL = "All question types"


def main() -> None:
    """Draw the page from the visit that the browser session holds."""
    import streamlit as st

    settings = read_settings()
    st.set_page_config(page_title="Ask the operating field", layout="wide")
    st.html(Path(__file__).with_name("demo_style.html"))
    st.html(
        '<header class="sv-head"><h1>Ask the operating field</h1>'
        f"<p><strong>{NOTICE}</strong> {'' if settings.model else NANO}</p></header>"
    )
    if not _entered(st, settings):
        return
    if not _start(st, settings):
        return
    from surgvivqa_audio.apps.demo_ask import answer_panel, ask_panel
    from surgvivqa_audio.apps.demo_side import sidebar

    _case_bar(st)
    _load_wanted(st)
    visit = st.session_state.visit
    if visit.clip is None:
        st.info("Choose a clip to begin.")
        return
    see, hear = st.columns([6, 5], gap="large")
    with see:
        _see(st, visit)
    with hear:
        ask_panel(st, visit)
        answer_panel(st, visit, st.session_state.profile)
    sidebar(st, visit, settings)


def _entered(st: Any, settings: Settings) -> bool:
    """Ask for the token where the server has one."""
    if st.session_state.get("entered") or admits(settings, ""):
        return True
    given = st.text_input("Access token", type="password", key="token")
    if given and admits(settings, given):
        st.session_state.entered = True
        st.rerun()
    if given:
        st.error("That is not the token of this server.")
    return False


def _start(st: Any, settings: Settings) -> bool:
    """Load what a first visit needs, with the warm-up shown; False where that failed."""
    if "visit" in st.session_state:
        return True
    # The first paint does not wait for these imports.
    with st.spinner("Warming up the model, a few seconds …"):
        from surgvivqa_audio.apps import capability, shared
        from surgvivqa_audio.apps.cases import DataCases, SimCases
        from surgvivqa_audio.apps.visit import Visit
        from surgvivqa_audio.errors import SurgVivqaError

        state = st.session_state
        try:
            engine = shared.engine(settings.model)
            data = Path(settings.data) if settings.data else None
            state.cases = (
                DataCases(data, engine.taxonomy, settings.split) if data else SimCases([settings.seed])
            )
            state.folders = [Path(settings.report) if settings.report else None, data, _model_dir(settings)]
            found = capability.find(capability.REPORT, state.folders)
            state.profile = capability.read_profile(found) if found else None
        except SurgVivqaError as error:
            st.error(str(error))
            return False
        state.types = list(engine.taxonomy.types)
        state.visit = Visit(engine)
        _pick_first(st)
    return True


def _model_dir(settings: Settings) -> Path:
    from surgvivqa_audio.answering.bundle import default_model_dir

    return Path(settings.model) if settings.model else default_model_dir()


def _filter(st: Any) -> str:
    chosen = st.session_state.get("type", ALL)
    return "" if chosen == ALL else str(chosen)


def _procedure(st: Any) -> str:
    known = st.session_state.cases.procedures()
    chosen = st.session_state.get("procedure")
    return str(chosen if chosen in known else known[-1])


def _pick_first(st: Any) -> None:
    """Want the first clip of the filter."""
    _pick(st, st.session_state.cases.cases(_procedure(st), _filter(st))[:1])


def _pick(st: Any, cases: list[Any]) -> None:
    if cases:
        st.session_state.clip = cases[0].index
        st.session_state.wanted = cases[0]


def _pick_listed(st: Any) -> None:
    every = st.session_state.cases.cases(_procedure(st), _filter(st))
    _pick(st, [case for case in every if case.index == st.session_state.clip])


def _pick_random(st: Any) -> None:
    source = st.session_state.cases
    some = [one for name in source.procedures() for one in source.cases(name, _filter(st))]
    if some:
        case = random.Random().choice(some)
        st.session_state.procedure = case.procedure
        _pick(st, [case])


def _new_patient(st: Any) -> None:
    st.session_state.procedure = st.session_state.cases.new_patient(random.Random())
    _pick_first(st)


def _case_bar(st: Any) -> None:
    """Filter, case list, random case, new patient and own clip."""
    from surgvivqa_audio.apps.visit import type_label

    source = st.session_state.cases
    simulated = hasattr(source, "new_patient")
    first, second, third = st.columns([4, 3, 4])
    first.selectbox(
        "Show clips that answer",
        [ALL, *st.session_state.types],
        format_func=lambda name: ALL if name == ALL else type_label(name),
        key="type",
        on_change=_pick_first,
        args=(st,),
    )
    names = source.procedures()
    if st.session_state.get("procedure") not in names:
        st.session_state.procedure = names[-1]
    second.selectbox(
        "Simulated patient" if simulated else "Procedure",
        names,
        key="procedure",
        on_change=_pick_first,
        args=(st,),
    )
    listed = {case.index: case for case in source.cases(_procedure(st), _filter(st))}
    if st.session_state.get("clip") not in listed and listed:
        st.session_state.clip = next(iter(listed))
    third.selectbox(
        "Clip",
        list(listed),
        format_func=lambda index: listed[index].label,
        key="clip",
        on_change=_pick_listed,
        args=(st,),
        placeholder="No clip here answers that type",
    )
    with st.container(horizontal=True):
        st.button("Random case", on_click=_pick_random, args=(st,))
        if simulated:
            st.button("New patient", on_click=_new_patient, args=(st,))
        with st.popover("Own clip"):
            _own_clip(st)


def _own_clip(st: Any) -> None:
    from surgvivqa_audio.apps.uploads import CLIP_SUFFIXES, FRAMES, Upload, read_clip
    from surgvivqa_audio.errors import SurgVivqaError

    st.caption(
        f"One short video, or {FRAMES} images with numbers in their names. Forgotten when the visit ends."
    )
    # Any type may be sent, so that a refusal comes with its reason.
    files = st.file_uploader(
        "Video or images", accept_multiple_files=True, key="own", help=", ".join(CLIP_SUFFIXES)
    )
    stride = st.number_input("Frames between two frames of the clip", 1, 100, 4, key="stride")
    if st.button("Open this clip", disabled=not files):
        try:
            st.session_state.wanted = read_clip([Upload(f.name, f.getvalue()) for f in files], int(stride))
        except SurgVivqaError as error:
            st.error(str(error))


def _load_wanted(st: Any) -> None:
    """Render or read the clip that was picked, and let the model prepare it."""
    from surgvivqa_audio.apps.cases import Case
    from surgvivqa_audio.errors import SurgVivqaError

    wanted = st.session_state.pop("wanted", None)
    if wanted is None:
        return
    with st.spinner("Opening the clip …"):
        try:
            clip = st.session_state.cases.load(wanted) if isinstance(wanted, Case) else wanted
            st.session_state.visit.show(clip)
        except SurgVivqaError as error:
            st.error(str(error))


def _see(st: Any, visit: Any) -> None:
    from surgvivqa_audio.apps import flipbook

    clip = visit.clip
    labels = flipbook.captions(clip)
    st.subheader(clip.title, anchor=False)
    pixels = flipbook.model_frames(clip, visit.engine.processor)
    height, width = pixels[0].shape[:2]
    seen = st.toggle(f"As the model sees them ({width} × {height} pixels)", key="pixels")
    frames = pixels if seen else flipbook.shown_frames(clip)
    book, grid = st.tabs(["Flipbook", "All frames"])
    dark = getattr(st.context.theme, "type", None) == "dark"
    book.iframe(flipbook.flipbook_html(frames, labels, dark, lossless=seen), height=flipbook.HEIGHT)
    with grid:
        half = (len(frames) + 1) // 2
        for start in range(0, len(frames), half):
            for column, at in zip(st.columns(half), range(start, len(frames)), strict=False):
                column.image(frames[at], caption=labels[at], width="stretch")
    st.caption(
        f"Exactly the {len(clip.frames)} frames the model received, in order, at {clip.fps:.2f} per second."
    )


if __name__ == "__main__":
    main()
