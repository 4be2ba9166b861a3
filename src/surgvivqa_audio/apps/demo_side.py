"""The sidebar: model, measured profile, live times, statistics, links and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surgvivqa_audio.apps import capability
from surgvivqa_audio.apps.export import NOTICE, visit_html, visit_json
from surgvivqa_audio.apps.serve import Settings
from surgvivqa_audio.apps.visit import Visit, type_label
from surgvivqa_audio.errors import ConfigError


def sidebar(st: Any, visit: Visit, settings: Settings) -> None:
    """Draw every section; what was not measured is said, never made up."""
    with st.sidebar:
        st.warning(NOTICE)
        _live(st, visit)
        _model(st, visit, settings)
        _profile(st, st.session_state.profile)
        _statistics(st, st.session_state.folders)
        _export(st, visit)


def _milliseconds(value: float | int | None) -> str:
    return "–" if value is None else f"{value:.0f} ms"


def _live(st: Any, visit: Visit) -> None:
    st.subheader("This visit", anchor=False)
    times = visit.performance()
    first, second = st.columns(2)
    first.metric("Answer, p50", _milliseconds(times["answer_p50"]))
    second.metric("Answer, p95", _milliseconds(times["answer_p95"]))
    st.caption(
        f"Questions: {times['questions']}, clips: {times['clips']}. "
        f"Opening a clip takes {_milliseconds(times['open_p50'])} (p50)."
    )


def _model(st: Any, visit: Visit, settings: Settings) -> None:
    engine = visit.engine
    with st.expander("Model card"):
        count = sum(parameter.numel() for parameter in engine.model.parameters())
        decision = engine.decision
        st.table(
            {
                "name": engine.name,
                "parameters": f"{count / 1e6:.1f} million",
                "answers": f"{len(engine.sentences)} sentences",
                "frames": f"fit within {engine.processor.max_side} pixels",
                "abstains below": f"{100 * decision.abstain_below:.0f} %",
                "temperature": f"{decision.temperature:.2f}",
            }
        )
        if not settings.model:
            st.caption(
                "The built-in model was trained on simulated clips and synthetic voices only. "
                "Nothing it says about real colonoscopy has been measured."
            )


def _profile(st: Any, profile: capability.Profile | None) -> None:
    with st.expander("Measured capability"):
        if profile is None:
            st.caption("No evaluation report was found. `surgvivqa eval report` writes one; pass --report.")
            return
        where = "on simulated clips" if profile.simulated else "on the test clips"
        st.caption(f"Run {profile.run}, {where}; right and blind floor in %.")
        st.dataframe(
            [
                {
                    "type": type_label(name),
                    "right": round(100 * entry.accuracy),
                    "floor": round(100 * entry.floor),
                    "n": entry.rows,
                }
                for name, entry in sorted(profile.by_type.items())
            ],
            hide_index=True,
        )
        _page(st, profile.page, "Evaluation report (HTML)")


def _page(st: Any, page: Path | None, label: str) -> None:
    if page is not None:
        st.download_button(label, page.read_bytes(), file_name=page.name, mime="text/html", on_click="ignore")


def _statistics(st: Any, folders: list[Path | None]) -> None:
    with st.expander("Data"):
        found = capability.find(capability.STATS, folders)
        if found is None:
            st.caption(
                "No data_stats.json was found. `surgvivqa data stats DIR` writes it; start with --data."
            )
        else:
            try:
                parts = capability.read_stats(found)
            except ConfigError as error:
                st.error(str(error))
            else:
                st.dataframe([{"part": name, **part} for name, part in parts.items()], hide_index=True)
        viewer = capability.find("viewer.html", folders)
        _page(st, viewer, "Clips and questions (HTML)")
        if viewer is None:
            st.caption("`surgvivqa data view DATA` writes a page with every clip and question.")


def _export(st: Any, visit: Visit) -> None:
    st.subheader("Export", anchor=False)
    visit.keep_recordings = st.checkbox(
        "Keep my recordings from now on, for the export", value=visit.keep_recordings, key="keep"
    )
    st.caption("Nothing is stored on this computer. Without the tick, no sound is part of the export.")
    first, second = st.columns(2)
    first.download_button("JSON", visit_json(visit), "visit.json", "application/json", on_click="ignore")
    second.download_button("HTML", visit_html(visit), "visit.html", "text/html", on_click="ignore")
