"""The sidebar: live times, measured profile, model, statistics, links and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surgvivqa_audio.apps import capability
from surgvivqa_audio.apps.export import visit_html, visit_json
from surgvivqa_audio.apps.serve import Settings
from surgvivqa_audio.apps.tables import table_html
from surgvivqa_audio.apps.visit import Visit, type_label
from surgvivqa_audio.errors import ConfigError, SurgVivqaError


def sidebar(st: Any, visit: Visit, settings: Settings) -> tuple[Any, Any]:
    """Draw what no answer changes; what was not measured is said, never made up.

    Returns:
        The places of the two sections that every answer changes, for :func:`after_answer`.
    """
    with st.sidebar:
        live = st.container()
        _profile(st, st.session_state.profile, st.session_state.profile_problem)
        _model(st, visit, settings)
        _statistics(st, st.session_state.folders)
        _viewer(st, visit, settings)
        return live, st.container()


def after_answer(st: Any, visit: Visit, places: tuple[Any, Any]) -> None:
    """Draw the times of this visit and its export."""
    with places[0]:
        _live(st, visit)
    with places[1]:
        _export(st, visit)


def _milliseconds(value: float | int | None) -> str:
    return "–" if value is None else f"{value:.0f} ms"


def _live(st: Any, visit: Visit) -> None:
    st.subheader("This visit", anchor=False)
    times = visit.performance()
    figures = "".join(
        f'<div title="{share} % of the answers came faster (p{share})."><p>{name}</p>'
        f'<p class="figure">{_milliseconds(times[f"answer_p{share}"])}</p></div>'
        for share, name in ((50, "Typical answer"), (95, "Slow answer"))
    )
    st.html(f'<div class="sv-live">{figures}</div>')
    st.caption(
        f"Questions: {times['questions']}, clips: {times['clips']}. "
        f"Opening a clip takes {_milliseconds(times['open_p50'])}."
    )


def _model(st: Any, visit: Visit, settings: Settings) -> None:
    engine = visit.engine
    with st.expander("Model card"):
        count = sum(parameter.numel() for parameter in engine.model.parameters())
        decision = engine.decision
        abstains = (
            f"{100 * decision.abstain_below:.0f} %" if decision.abstain_below else "never by confidence"
        )
        card = {
            "name": engine.name,
            "parameters": f"{count / 1e6:.1f} million",
            "answers": f"{len(engine.sentences)} sentences",
            "frames": f"fit within {engine.processor.max_side} pixels",
            "abstains below": abstains,
            "temperature": f"{decision.temperature:.2f}",
        }
        st.html(table_html(card.items()))
        if not settings.model:
            st.caption(
                "The built-in model was trained on simulated clips and synthetic voices only. "
                "Nothing it says about real colonoscopy has been measured."
            )


def _profile(st: Any, profile: capability.Profile | None, problem: str) -> None:
    with st.expander("Measured capability"):
        if problem:
            st.error(problem)
        elif profile is None:
            st.caption(
                "Not measured: this model comes without an evaluation report.",
                help="`surgvivqa eval report` writes one; start the demo with --report FOLDER.",
            )
        else:
            _measured(st, profile)


def _measured(st: Any, profile: capability.Profile) -> None:
    where = "simulated ColonSim clips" if profile.simulated else "test clips"
    st.caption(
        f"Run {profile.run} on {where}. “Blind” is what the same answer every time would reach, "
        "without looking."
    )
    rows = [
        (type_label(name), round(100 * entry.accuracy), round(100 * entry.floor), entry.rows)
        for name, entry in sorted(profile.by_type.items())
    ]
    st.html(table_html(rows, ("type", "right, %", "blind, %", "n")))
    _page(st, profile.page, "Evaluation report (HTML)")


def _page(st: Any, page: Path | None, label: str) -> None:
    if page is not None:
        st.download_button(label, page.read_bytes(), file_name=page.name, mime="text/html", on_click="ignore")


def _statistics(st: Any, folders: list[Path | None]) -> None:
    with st.expander("Data statistics"):
        found = capability.find(capability.STATS, folders)
        if found is None:
            st.caption(
                "No statistics come with these clips.",
                help="`surgvivqa data stats DATA` writes data_stats.json; start the demo with --data DATA.",
            )
            return
        try:
            parts = capability.read_stats(found)
        except ConfigError as error:
            st.error(str(error))
            return
        titles = ("part", "rows", "videos", "types", "informative")
        st.html(table_html([(name, *map(part.get, titles[1:])) for name, part in parts.items()], titles))


def _viewer(st: Any, visit: Visit, settings: Settings) -> None:
    """The page of `surgvivqa data view`: the one that lies in the folder, else made when asked for."""
    from surgvivqa_audio.apps.viewing import patient_page, rows_page

    with st.expander("Clips and questions"):
        ready = capability.find("viewer.html", st.session_state.folders)
        if ready is not None:
            _page(st, ready, "Clips and questions (HTML)")
            return
        st.caption("One page with frames, questions and answers, to read without this program.")
        name = str(st.session_state.procedure)
        if st.button(f"Make the page of {name}"):
            with st.spinner("Collecting …"):
                try:
                    made = (
                        rows_page(Path(settings.data), visit.engine.taxonomy, settings.split, name)
                        if settings.data
                        else patient_page(st.session_state.cases, visit.engine.taxonomy, name)
                    )
                except SurgVivqaError as error:
                    st.error(str(error))
                    return
            st.session_state.made = (name, made)
        if st.session_state.get("made", ("", ""))[0] == name:
            st.download_button(
                "Clips and questions (HTML)",
                st.session_state.made[1],
                f"{name}.html",
                "text/html",
                on_click="ignore",
            )


def _export(st: Any, visit: Visit) -> None:
    st.subheader("Export", anchor=False)
    visit.keep_recordings = st.checkbox(
        "Keep my recordings from now on, for the export", value=visit.keep_recordings, key="keep"
    )
    st.caption("Nothing is stored on this computer. Without the tick, no sound is part of the export.")
    with st.container(horizontal=True):
        st.download_button("JSON", visit_json(visit), "visit.json", "application/json", on_click="ignore")
        st.download_button("HTML", visit_html(visit), "visit.html", "text/html", on_click="ignore")
