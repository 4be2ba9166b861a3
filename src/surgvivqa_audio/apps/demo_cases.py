"""Above both halves of the page: which clip is open, and how to get another one."""

from __future__ import annotations

import random
from typing import Any

from surgvivqa_audio.apps.cases import Case
from surgvivqa_audio.apps.uploads import CLIP_SUFFIXES, FRAMES, Upload, read_clip
from surgvivqa_audio.apps.visit import type_label
from surgvivqa_audio.errors import SurgVivqaError

ALL = "All question types"


def _filter(st: Any) -> str:
    chosen = st.session_state.get("type", ALL)
    return "" if chosen == ALL else str(chosen)


def _procedure(st: Any) -> str:
    known = st.session_state.cases.procedures()
    chosen = st.session_state.get("procedure")
    return str(chosen if chosen in known else known[-1])


def pick_first(st: Any) -> None:
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
    pick_first(st)


def case_bar(st: Any) -> None:
    """Filter, case list, random case, new patient and own clip."""
    source = st.session_state.cases
    simulated = hasattr(source, "new_patient")
    first, second, third = st.columns([4, 3, 4])
    first.selectbox(
        "Show clips that answer",
        [ALL, *st.session_state.types],
        format_func=lambda name: ALL if name == ALL else type_label(name),
        key="type",
        on_change=pick_first,
        args=(st,),
    )
    names = source.procedures()
    if st.session_state.get("procedure") not in names:
        st.session_state.procedure = names[-1]
    second.selectbox(
        "Simulated patient" if simulated else "Procedure",
        names,
        key="procedure",
        on_change=pick_first,
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
        # A new clip gets a new form: the opened one closes and its files are forgotten.
        serial = st.session_state.visit.serial
        with st.popover("Own clip", key=f"own-clip-{serial}"):
            _own_clip(st, serial)
        clip = st.session_state.visit.clip
        if listed and clip is not None and clip.source == "own":
            st.button("Back to the listed clip", on_click=_pick_listed, args=(st,))


def _own_clip(st: Any, serial: int) -> None:
    st.caption(
        f"One short video, or {FRAMES} images with numbers in their names. Forgotten when the visit ends."
    )
    # Any type may be sent, so that a refusal comes with its reason.
    files = st.file_uploader(
        "Video or images",
        accept_multiple_files=True,
        key=f"own-{serial}",
        help=", ".join(CLIP_SUFFIXES),
    )
    stride = st.number_input("Use every n-th frame of the video", 1, 100, 4, key="stride")
    if st.button("Open this clip", disabled=not files):
        try:
            clip = read_clip([Upload(f.name, f.getvalue()) for f in files], int(stride))
            st.session_state.visit.show(clip)
        except SurgVivqaError as error:
            st.error(str(error))
        else:
            st.rerun()


def load_wanted(st: Any) -> None:
    """Render or read the clip that was picked, and let the model prepare it."""
    wanted = st.session_state.pop("wanted", None)
    if wanted is None:
        return
    with st.spinner("Opening the clip …"):
        try:
            clip = st.session_state.cases.load(wanted) if isinstance(wanted, Case) else wanted
            st.session_state.visit.show(clip)
        except SurgVivqaError as error:
            st.error(str(error))
