"""Reports, comparisons and controls in words, on runs made up with known shares."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from surgvivqa_audio.commands import evaluate
from surgvivqa_audio.errors import BadAnnotation, ConfigError
from surgvivqa_audio.evaluation.diff import diff_lines, diff_runs
from surgvivqa_audio.evaluation.document import Case, Document, Paragraph, Picture, Table
from surgvivqa_audio.evaluation.explain import explain
from surgvivqa_audio.evaluation.figures import _balanced, run_figures, wording_flips
from surgvivqa_audio.evaluation.gallery import worst
from surgvivqa_audio.evaluation.merge import merge_shards
from surgvivqa_audio.evaluation.report import ReportOptions, make_report
from surgvivqa_audio.evaluation.runs import compare, load_run
from surgvivqa_audio.files import write_jsonl
from surgvivqa_audio.scoring.score import balanced
from surgvivqa_audio.taxonomy import load_taxonomy

TAXONOMY = load_taxonomy()
KINDS = ("scope_motion", "scope_motion_type", "tool_identification", "lighting_mode")


def other_type(kind: str) -> str:
    return KINDS[(KINDS.index(kind) + 1) % len(KINDS)]


def make_rows(
    share: float,
    *,
    system: str = "audio",
    control: str | None = None,
    template: str = "out",
    say: str = "own",
    seed: int = 1,
    videos: int = 6,
) -> list[dict[str, Any]]:
    """Rows of which ``share`` are right; ``say`` decides whether another type or a refusal is spoken."""
    rng, rows = random.Random(seed), []
    for number in range(videos * 40):
        kind_name = KINDS[number % 4]
        kind = TAXONOMY.type_of(kind_name)
        gold = kind.answers[(number // 4) % 2 if kind_name != "lighting_mode" else 0]
        right = rng.random() < share
        said = gold if right else next(one for one in kind.answers if one != gold)
        sentence, heard, short = said.sentence, kind_name, said.short
        if say == "spoken" and right:
            heard = other_type(kind_name)
            sentence, short = (
                TAXONOMY.type_of(heard).answers[0].sentence,
                TAXONOMY.type_of(heard).answers[0].short,
            )
        if say == "refuse" and right:
            sentence, heard, short = TAXONOMY.refusal.sentence, "", TAXONOMY.refusal.short
        row = {
            "key": f"{template}/sim-{number % videos}/{number}/{kind_name}",
            "question_id": f"qa_{number}",
            "question_type": kind_name,
            "question": kind.template(template),
            "ground_truth": gold.sentence,
            "short_answer": gold.short,
            "predicted_answer": sentence,
            "confidence": 0.75 if right else 0.55,
            "inference_time_ms": 10.0 + number % 5,
            "error": None,
            "predicted_type": heard,
            "abstained": heard == "",
            "options": [[heard, short, 0.75 if right else 0.55], [kind_name, "x", 0.2]],
            "run": {"system": system, "control": control},
        }
        if control == "swap-across":
            asked = TAXONOMY.type_of(other_type(kind_name))
            row |= {"asked_key": "k", "asked_type": asked.name, "asked_same_clip": True}
            row["asked_short_answer"] = asked.answers[0].short
        rows.append(row)
    return rows


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    write_jsonl(folder / name, rows)
    return folder / name


def run_of(folder: Path, *arguments: Any, **settings: Any) -> Any:
    path = folder / f"{len(list(folder.iterdir()))}.jsonl"
    return load_run(write(folder, path.name, make_rows(*arguments, **settings)), TAXONOMY)


def words(base: Any, changed: Any) -> str:
    return str(explain(base, changed, TAXONOMY)["words"])


def test_controls_in_words(tmp_path: Path) -> None:
    base = run_of(tmp_path, 0.9)
    hears = words(base, run_of(tmp_path, 1.0, control="swap-across", say="spoken"))
    assert hears.startswith(
        "hears: yes, 100.0 % follow the spoken question, 0.0 % the type that was not asked"
    )
    assert "100.0 % of the readable answers are right for the spoken question" in hears
    deaf = words(base, run_of(tmp_path, 0.9, control="swap-across"))
    assert deaf.startswith("hears: no, 0.0 % follow the spoken question, 100.0 %")
    silent = words(base, run_of(tmp_path, 1.0, control="silence", say="refuse"))
    assert silent.startswith("needs the sound: yes, 100.0 % abstain")
    assert words(base, run_of(tmp_path, 0.9, control="silence")).startswith("needs the sound: no, 0.0 %")
    same = words(base, run_of(tmp_path, 0.9, control="swap-within"))
    assert same.startswith("does not hang on one recording: yes, 100.0 %")
    mute = run_of(tmp_path, 1.0, say="refuse")
    always = words(mute, run_of(tmp_path, 1.0, control="silence", say="refuse"))
    assert always.startswith("needs the sound: cannot be said, 100.0 % abstain when nothing is said, 100.0 %")


def test_picture_controls_in_words(tmp_path: Path) -> None:
    base = run_of(tmp_path, 0.95)
    blind = words(base, run_of(tmp_path, 0.4, control="blank", seed=2))
    assert blind.startswith("sees: yes, right (n = 240)")
    assert "floor" in blind
    assert words(base, run_of(tmp_path, 0.95, control="blank")).startswith("sees: no")
    frozen = words(base, run_of(tmp_path, 0.3, control="frozen", seed=3))
    assert frozen.startswith("sees motion: yes, with one frame repeated the motion types (n = 120)")
    noisy = words(base, run_of(tmp_path, 0.95, control="noise-5"))
    assert noisy.startswith("understands at 5 dB of noise: yes")
    poor = words(run_of(tmp_path, 0.3), run_of(tmp_path, 0.3, control="noise-5"))
    assert poor.startswith("understands at 5 dB of noise: cannot be said, it is not above its floor")


def test_reversed_frames_turn_directions(tmp_path: Path) -> None:
    base = run_of(tmp_path, 1.0)
    turned = words(base, run_of(tmp_path, 0.0, control="reverse"))
    assert turned.startswith(
        "sees the order of frames: yes, when the clip runs backwards 100.0 % of 60 answers"
    )
    assert words(base, run_of(tmp_path, 1.0, control="reverse")).startswith("sees the order of frames: no")


def test_figures_of_a_run(tmp_path: Path) -> None:
    figures = run_figures(run_of(tmp_path, 1.0), TAXONOMY, rounds=50)
    assert figures["closed_set"] == figures["macro_f1"] == 1.0
    assert figures["ci95_procedures"] == [1.0, 1.0]
    assert figures["procedures"] == 6
    assert {name: one["rows"] for name, one in figures["by_domain"].items()} == {
        "Movement": 120, "Instruments": 60, "Operation notes": 60,
    }  # fmt: skip
    assert figures["by_answer_kind"]["yes/no"]["rows"] == 60
    assert figures["by_domain"]["Movement"]["floor"] == 0.5
    assert figures["latency_ms"]["p50"] == 12.0
    assert figures["confusion"]["lighting_mode"] == {"NBI": {"NBI": 60}}
    refused = run_figures(run_of(tmp_path, 1.0, say="refuse"), TAXONOMY, rounds=50)
    assert refused["abstained"] == 1.0
    assert refused["confusion"]["lighting_mode"] == {"NBI": {"unanswerable": 60}}


def test_fast_balanced_accuracy_is_the_scorers(tmp_path: Path) -> None:
    run = run_of(tmp_path, 0.6)
    chosen = np.array([*range(0, 200, 3), 7, 7, 7, 230])
    expected = balanced([run.rows[at] for at in chosen], [run.correct[at] for at in chosen])
    assert _balanced(run)(chosen) == pytest.approx(expected, abs=1e-12)
    assert _balanced(run)(np.array([3])) in (0.0, 1.0)


def test_word_error_rate_of_transcripts(tmp_path: Path) -> None:
    rows = make_rows(1.0, system="asr")[
        :2
    ]  # "Is the scope actively moving throughout this clip?" and another
    rows[0]["extra"] = {"transcript": "is the SCOPE actively moving throughout this clip"}
    rows[1]["extra"] = {"transcript": rows[1]["question"].replace("scope", "soap")}
    figures = run_figures(load_run(write(tmp_path, "asr.jsonl", rows), TAXONOMY), TAXONOMY, rounds=5)
    assert figures["word_error_rate"] == {"rows": 2, "wer": pytest.approx(1 / 18)}


def test_wording_flips_pair_by_clip(tmp_path: Path) -> None:
    rows = make_rows(1.0, template="in")
    changed = make_rows(1.0)
    changed[0]["predicted_answer"] = "No."
    changed[4]["predicted_answer"] = "Yes."
    first = load_run(write(tmp_path, "in.jsonl", rows), TAXONOMY)
    second = load_run(write(tmp_path, "out.jsonl", changed), TAXONOMY)
    found = wording_flips(first, second)
    assert (found["pairs"], found["changed"], found["lost"], found["won"]) == (240, 2, 2, 0)
    with pytest.raises(BadAnnotation, match="share no rows"):
        compare(first, second)


def test_compare_names_rows_and_tests_them(tmp_path: Path) -> None:
    one, other = make_rows(1.0), make_rows(1.0)
    other[0]["predicted_answer"] = "No."
    other[2]["predicted_answer"] = "a grasper"
    first, second = write(tmp_path, "a.jsonl", one), write(tmp_path, "b.jsonl", other)
    result = diff_runs(first, second, TAXONOMY)
    assert result["shared"]["only_first"] == 2
    assert result["shared"]["p_value"] == 0.5
    assert [row["outcome"] for row in result["changed"]] == ["lost", "lost"]
    assert result["changed"][0]["key"] == "out/sim-0/0/scope_motion"
    assert result["by_type"]["scope_motion"]["only_first"] == 1
    lines = diff_lines(result, 1)
    assert "only A right 2, only B 0" in lines[2]
    assert lines[-1].startswith("  lost: out/sim-0/0/scope_motion")
    other[1]["short_answer"] = "withdrawing" if one[1]["short_answer"] == "advancing" else "advancing"
    write(tmp_path, "b.jsonl", other)
    with pytest.raises(BadAnnotation, match="gold answer"):
        diff_runs(first, second, TAXONOMY)


def test_report_is_complete_and_labelled(tmp_path: Path) -> None:
    main = write(tmp_path, "audio.jsonl", make_rows(0.8))
    outside = make_rows(0.9, say="refuse")[:20]
    for number, row in enumerate(outside):
        row |= {"key": f"out/sim-0/{number}/out_of_scope-{number}", "question_type": "out_of_scope"}
        row |= {"short_answer": "unanswerable", "ground_truth": TAXONOMY.refusal.sentence}
    files = [
        write(tmp_path, "outside.jsonl", outside),
        main,
        write(tmp_path, "text.jsonl", make_rows(0.7, system="text", seed=5)),
        write(tmp_path, "in.jsonl", make_rows(0.85, template="in", seed=6)),
        write(tmp_path, "floor.jsonl", make_rows(0.5, system="majority", seed=7)),
        write(tmp_path, "swap.jsonl", make_rows(0.9, control="swap-across", say="spoken")),
        write(tmp_path, "blank.jsonl", make_rows(0.4, control="blank", seed=8)),
    ]
    held = write(tmp_path, "eval.jsonl", make_rows(0.8, seed=9, videos=4))
    options = ReportOptions(eval_predictions=held, rounds=30, cases=3)
    report = make_report(files, tmp_path / "report", TAXONOMY, options)
    assert report["main"] == "audio out"
    assert report["simulated"] is True
    assert {entry["control"] for entry in report["controls"]} == {"swap-across", "blank"}
    assert {(pair["first"], pair["second"]) for pair in report["pairs"]} == {
        ("audio out", "text out"), ("audio out", "majority out"), ("text out", "majority out"),
    }  # fmt: skip
    assert [flip["pairs"] for flip in report["wordings"]] == [240]
    refusal = next(entry for entry in report["refusals"] if entry["out_of_scope_rows"])
    refused = sum(row["abstained"] for row in outside)
    assert (refusal["run"], refusal["refused"]) == ("audio out out of scope", refused)
    assert report["calibration"]["temperature"] is not None
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert written == {
        "report.json", "report.md", "report.html", "types.svg", "controls.svg", "reliability.svg", "risk.svg",
    }  # fmt: skip
    text = (tmp_path / "report" / "report.md").read_text()
    assert "measured on ColonSim, the simulator" in text
    assert "hears: yes" in text
    assert "one answer only" in text
    assert "audio out (simulator)" in text
    movement = report["runs"]["audio out"]["by_domain"]["Movement"]
    low, high = (f"{100 * bound:.1f}" for bound in movement["ci95"])
    assert "| domain | n | right % | 95 % | balanced % | floor % |" in text
    assert (
        f"| Movement | 120 | {100 * movement['closed_set']:.1f} | {low}-{high} "
        f"| {100 * movement['balanced']:.1f} | 50.0 |"
    ) in text
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<article>") == 3
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert json.loads((tmp_path / "report" / "report.json").read_text())["scorer_version"] == "2"


def test_report_needs_a_system_and_the_base_of_a_control(tmp_path: Path) -> None:
    floor = write(tmp_path, "floor.jsonl", make_rows(0.5, system="majority"))
    with pytest.raises(ConfigError, match="at least one run of a system"):
        make_report([floor], tmp_path / "r", TAXONOMY)
    main = write(tmp_path, "audio.jsonl", make_rows(0.8))
    blank = write(tmp_path, "blank.jsonl", make_rows(0.4, control="blank", system="text"))
    with pytest.raises(ConfigError, match="control blank needs the run of text without it"):
        make_report([main, blank], tmp_path / "r", TAXONOMY, ReportOptions(rounds=5, plots=False))


def test_runs_of_one_system_are_told_apart_by_file(tmp_path: Path) -> None:
    files = [write(tmp_path, f"{name}.jsonl", make_rows(0.8)) for name in ("small", "large")]
    report = make_report(files, tmp_path / "r", TAXONOMY, ReportOptions(rounds=5, plots=False, cases=0))
    assert list(report["runs"]) == ["audio out (small)", "audio out (large)"]


def test_shards_merge_into_one_file(tmp_path: Path) -> None:
    rows = make_rows(0.8)
    first, second = write(tmp_path, "0.jsonl", rows[:100]), write(tmp_path, "1.jsonl", rows[100:])
    merged = merge_shards([first, second], tmp_path / "all.jsonl", TAXONOMY)
    assert [row["key"] for row in merged] == [row["key"] for row in rows]
    assert load_run(tmp_path / "all.jsonl", TAXONOMY).score["rows"] == 240
    with pytest.raises(BadAnnotation, match="already in"):
        merge_shards([first, first], tmp_path / "x.jsonl", TAXONOMY)
    other = write(tmp_path, "2.jsonl", make_rows(0.8, system="text")[100:])
    with pytest.raises(BadAnnotation, match="different runs"):
        merge_shards([first, other], tmp_path / "x.jsonl", TAXONOMY)
    assert not (tmp_path / "x.jsonl").exists()


def test_gallery_takes_failed_rows_first_and_types_in_turn(tmp_path: Path) -> None:
    rows = make_rows(0.0)
    rows[5]["error"] = "MissingFrame: gone"
    run = load_run(write(tmp_path, "a.jsonl", rows), TAXONOMY)
    chosen = worst(run, 4)
    assert chosen[0] == 5
    assert len({run.rows[at].question_type for at in chosen}) == 4
    assert len(worst(run, 1000)) == 240


def test_a_table_has_a_cell_for_every_column() -> None:
    with pytest.raises(ValueError, match="1 cells under 2 columns: x"):
        Table(["a", "b"], [["x"]])


def test_document_escapes_what_models_say() -> None:
    document = Document("T <1>")
    document.add(
        Paragraph("<b>bold</b>"), Table(["a|b"], [["<i>x</i> | y"]]), Picture("p.svg", "a <plot>"),
        Case("k", [("answer", "<script>alert(1)</script>")], [b"jpeg"], b"wav"),
    )  # fmt: skip
    page = document.html({"p.svg": "<svg/>"})
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;i&gt;x" in page
    assert 'src="data:image/jpeg;base64,anBlZw=="' in page
    assert "| &lt;i>x&lt;/i> \\| y |" in document.markdown()


def test_report_and_compare_commands(tmp_path: Path) -> None:
    first = write(tmp_path, "a.jsonl", make_rows(0.9))
    second = write(tmp_path, "b.jsonl", make_rows(0.4, control="blank", seed=3))
    arguments = ["report", str(first), str(second), "--out", str(tmp_path / "r"), "--no-plots"]
    result = CliRunner().invoke(evaluate.app, arguments)
    assert result.exit_code == 0, result.output
    assert "sees: yes" in result.output
    arguments = ["compare", str(first), str(second), "--json", str(tmp_path / "d.json")]
    assert CliRunner().invoke(evaluate.app, arguments).exit_code == 0
    assert json.loads((tmp_path / "d.json").read_text())["shared"]["rows"] == 240
