"""The page of `surgvivqa demo`, a thin view; Streamlit runs this file once per interaction."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from surgvivqa_audio.apps.serve import Settings, admits, read_settings

NOTICE = "Research only, not for clinical use."
NANO = (
    "This is the small built-in model. It knows synthetic voices and simulated scenes only, "
    "and abstains on what it does not recognise."
)
WARMING = '<p class="sv-warm" role="status">Warming up the model, a few seconds …</p>'
SIDEBAR = 270  # pixels
PAINTED = 0.2  # seconds until the browser, once it has this page, asks for the next


def main() -> None:
    """Draw the page from the visit that the browser session holds."""
    import streamlit as st

    settings = read_settings()
    st.set_page_config(page_title="Ask the operating field", layout="wide", initial_sidebar_state=SIDEBAR)
    st.html(Path(__file__).with_name("demo_style.html"))
    # The sidebar is there from the first paint, so that nothing jumps when the model is ready.
    st.sidebar.warning(NOTICE)
    st.html(
        '<header class="sv-head"><h1>Ask the operating field</h1>'
        f"<p><strong>{NOTICE}</strong> {'' if settings.model else NANO}</p></header>"
    )
    if not _entered(st, settings):
        return
    if not _start(st, settings):
        return
    from surgvivqa_audio.apps.demo_cases import case_bar, load_wanted
    from surgvivqa_audio.apps.demo_side import sidebar

    bar = st.container()  # drawn after the clip is open, so that it belongs to that clip
    load_wanted(st)
    with bar:
        case_bar(st)
    visit = st.session_state.visit
    if visit.clip is None:
        st.info("Choose a clip to begin.")
        return
    see, hear = st.columns([6, 5], gap="large")
    with see:
        _see(st, visit)
    with hear:
        # A question redraws this part alone, not the clip, its list and the rest of the sidebar.
        st.fragment(_hear)(st, visit, sidebar(st, visit, settings))


def _hear(st: Any, visit: Any, places: tuple[Any, Any]) -> None:
    """Question and answer, and what an answer changes in the sidebar."""
    from surgvivqa_audio.apps.demo_answer import answer_panel
    from surgvivqa_audio.apps.demo_ask import ask_panel
    from surgvivqa_audio.apps.demo_side import after_answer

    ask_panel(st, visit)
    answer_panel(st, visit, st.session_state.profile)
    after_answer(st, visit, places)


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
    warming = st.empty()
    warming.html(WARMING)
    # Importing the model's libraries would take the processor from the very first paint.
    if "torch" not in sys.modules and not st.session_state.get("painted"):
        st.session_state.painted = True
        _return_when_painted(st)
        return False
    loaded = _load(st, settings)
    warming.empty()
    return loaded


def _return_when_painted(st: Any) -> None:
    """Have the browser ask for the page again as soon as it has drawn this one."""
    drawn: list[bool] = []

    def again() -> None:
        if drawn:
            st.rerun()
        drawn.append(True)

    st.fragment(again, run_every=PAINTED)()


def _load(st: Any, settings: Settings) -> bool:
    """Model, clips and figures of a new visit; False where that failed."""
    from surgvivqa_audio.apps import capability, shared
    from surgvivqa_audio.apps.cases import DataCases, SimCases
    from surgvivqa_audio.apps.demo_cases import pick_first
    from surgvivqa_audio.apps.visit import Visit
    from surgvivqa_audio.errors import SurgVivqaError

    state = st.session_state
    try:
        engine = shared.engine(settings.model)
        data = Path(settings.data) if settings.data else None
        state.cases = DataCases(data, engine.taxonomy, settings.split) if data else SimCases([settings.seed])
        state.folders = [Path(settings.report) if settings.report else None, data, _model_dir(settings)]
    except SurgVivqaError as error:
        st.error(str(error))
        return False
    try:
        found = capability.find(capability.REPORT, state.folders)
        state.profile, state.profile_problem = capability.read_profile(found) if found else None, ""
    except SurgVivqaError as error:
        # A damaged report does not keep anybody from asking; the sidebar says so.
        state.profile, state.profile_problem = None, str(error)
    state.types = list(engine.taxonomy.types)
    state.visit = Visit(engine)
    pick_first(st)
    return True


def _model_dir(settings: Settings) -> Path:
    from surgvivqa_audio.answering.bundle import default_model_dir

    return Path(settings.model) if settings.model else default_model_dir()


def _see(st: Any, visit: Any) -> None:
    """The clip as a flipbook; encoded once, however often the page is drawn."""
    from surgvivqa_audio.apps import flipbook

    clip = visit.clip
    st.subheader(clip.title, anchor=False)
    height, width = visit.engine.processor.geometry.target_size(*clip.frames[0].shape[:2])
    seen = st.toggle(f"As the model sees them ({width} × {height} pixels)", key="pixels")
    dark = getattr(st.context.theme, "type", None) == "dark"
    wanted = (visit.serial, seen, dark)
    if st.session_state.get("book", (None, ""))[0] != wanted:
        frames = flipbook.model_frames(clip, visit.engine.processor) if seen else flipbook.shown_frames(clip)
        page = flipbook.flipbook_html(frames, flipbook.captions(clip), dark, lossless=seen)
        st.session_state.book = (wanted, page)
    st.iframe(st.session_state.book[1], height=flipbook.HEIGHT, alt="Flipbook of the clip")
    st.caption(
        f"Exactly the {len(clip.frames)} frames the model received, in order, at {clip.fps:.2f} per second."
    )


if __name__ == "__main__":
    main()
