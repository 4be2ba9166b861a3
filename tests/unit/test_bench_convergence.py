"""What the convergence benchmark makes of logs and answers: literal costs, curves, differences, table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from surgvivqa_audio.bench import convergence_figures as figures
from surgvivqa_audio.bench.convergence_plan import ARMS, Plan, make_rows, settings
from surgvivqa_audio.cli import app
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.files import read_jsonl
from surgvivqa_audio.scoring.rows import Prediction
from surgvivqa_audio.taxonomy import load_taxonomy
from surgvivqa_audio.training.recipe import read_recipe

ROOT = Path(__file__).resolve().parents[2]
SAID = "Yes, the scope is moving across the frames."
LOG = [
    {"step": 1, "loss": 4.0, "epoch": 0.5, "processor_seconds": 3.0},
    {"step": 2, "loss": 2.0, "epoch": 1.0, "processor_seconds": 5.0},
    {"step": 2, "eval_loss": 0.5, "epoch": 1.0, "processor_seconds": 95.0},
    {"step": 3, "loss": 1.0, "epoch": 1.5, "processor_seconds": 97.5},
    {"step": 4, "loss": 0.5, "epoch": 2.0, "processor_seconds": 98.5},
    {"step": 4, "eval_loss": 0.4, "epoch": 2.0, "processor_seconds": 200.0},
]


def test_a_sample_costs_what_updates_take_without_evaluations() -> None:
    # 3 s, 2 s and 1 s; the third update comes behind an evaluation and is left out
    assert figures.cost(LOG, samples=4) == pytest.approx(0.5)


def test_curves_run_over_samples() -> None:
    assert figures.per_update(LOG, rows=10) == 5.0
    drawn = figures.curves(LOG, rows=10)
    assert drawn["train_loss"] == [[5, 4.0], [10, 2.0], [15, 1.0], [20, 0.5]]
    assert drawn["eval_loss"] == [[10, 0.5], [20, 0.4]]
    assert figures.last_gain(drawn["eval_loss"]) == 0.2
    assert figures.last_gain(drawn["eval_loss"][:1]) is None


def row(video: str, right: bool) -> Prediction:
    said = SAID if right else "No, the scope is not moving in these frames."
    return Prediction(
        key=f"in/{video}/8/scope_motion",
        question_id="q",
        question_type="scope_motion",
        question="Is the scope moving?",
        ground_truth=SAID,
        short_answer="yes",
        predicted=said,
    )


def test_the_difference_is_paired_by_key_and_drawn_by_procedure() -> None:
    taxonomy = load_taxonomy()
    sentences = {answer.short: answer.sentence for answer in taxonomy.types["scope_motion"].answers}
    assert sentences["yes"] == SAID
    ours = [row("a", True), row("b", True), row("c", False), row("d", True)]
    theirs = [row("d", True), row("c", True), row("b", False), row("a", False)]
    found = figures.difference([(ours, theirs), (ours, theirs)], taxonomy)
    assert found["mean"] == 0.25
    assert found["ci95"][0] < 0.25 < found["ci95"][1]
    assert figures.difference([(ours, ours)], taxonomy) == {"mean": 0.0, "ci95": [0.0, 0.0]}


def run(arm: str, seed: int, rate: float) -> dict[str, Any]:
    return {
        "arm": arm, "seed": seed, "samples_per_second": rate, "seconds_per_sample": 1 / rate, "epochs": 8.0,
        "train_loss": [[8, 4.0], [16, 2.0]], "eval_loss": [[16, 1.0]], "last_gain": None,
        "best_eval_loss": 1.0, "best_epoch": 8.0, "stopped": "all steps done", "accuracy": 0.5,
        "ci95": [0.4, 0.6], "balanced": 0.45, "floor": 0.3,
    }  # fmt: skip


def test_the_page_gets_the_table_between_its_marks_and_a_picture(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nafter\n", encoding="utf-8")
    runs = [run("fast", 1, 10.0), run("seed", 1, 0.5)]
    entry = {
        "arm": "fast",
        "seeds": [1],
        "samples_per_second_ratio": {"median": 20.0, "pairs": [20.0]},
        "accuracy_difference": {"mean": 0.01, "ci95": [-0.02, 0.04]},
    }
    result = {"rows": {"test": 9}, "runs": runs, "against_seed": [entry], "missing": ["seed 2"]}
    figures.write_page(result, page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| seed | 1 | 0.50 | 4.00, 1.000 | 8.0, all steps done at 8.0 | - | 50.0 [40.0, 60.0] |" in text
    assert "20.0 times the samples per processor second (20.0 to 20.0), accuracy +1.0 points" in text
    assert "**Not complete**, still to run: seed 2." in text
    figures.plot(runs, tmp_path / "new" / "curves.svg")
    assert "</svg>" in (tmp_path / "new" / "curves.svg").read_text(encoding="utf-8")


def test_every_arm_is_a_recipe_with_the_same_values_of_training(tmp_path: Path) -> None:
    plan = Plan(tmp_path, 8, 3, 14, 2, 8, (42, 43, 44))
    plan.rows("train").parent.mkdir()
    plan.rows("train").write_text('{"a": 1}\n' * 89, encoding="utf-8")
    found = {}
    for name, arm in ARMS.items():
        recipe = read_recipe(ROOT / arm.recipe, settings(plan, arm, 43, curve=True))
        assert recipe.trainer.eval_steps == 12  # once an epoch of the seed arm
        found[name] = recipe
        keys = recipe.trainer
        assert (keys.learning_rate, keys.lr_scheduler_type, keys.early_stopping_patience) == (
            2e-3,
            "linear",
            3,
        )
        assert (recipe.tune.lora_rank, recipe.tune.lora_alpha, recipe.tune.lora_dropout) == (64, 16, 0.05)
        assert (recipe.seed, keys.num_train_epochs, recipe.tune.quantise) == (43, 8, "none")
    seed, fast, typed = (found[name] for name in ("seed", "fast", "fast-typed"))
    assert (seed.data.mode, seed.prompt.layout, seed.prompt.pathway) == ("audio+text", "seed", "images")
    assert (seed.trainer.effective_batch, seed.fast.checkpointing) == (8, "never")
    assert (fast.data.mode, fast.prompt.projector, fast.data.pack) == ("audio", "mlp", 8)
    assert (typed.data.mode, typed.prompt.projector) == ("audio+text", "linear")
    video = found["seed-video"]
    assert video == seed.model_copy(update={"prompt": seed.prompt.model_copy(update={"pathway": "video"})})
    timed = read_recipe(ROOT / "recipes/seed.yaml", settings(plan, ARMS["seed"], 43, curve=False))
    assert (timed.fast.checkpointing, timed.fast.cache, timed.trainer.max_steps) == ("always", "", 2)


def test_the_rows_of_a_split_are_other_procedures_and_are_made_once(tmp_path: Path) -> None:
    plan = Plan(tmp_path, 1, 1, 1, 1, 1, (42,))
    said: list[str] = []
    make_rows(plan, said.append)
    assert said[0] == "3/3 clips"
    assert said[-1].endswith(" recordings")
    videos = [
        {row["video_id"] for _, row in read_jsonl(plan.rows(part))} for part in ("train", "eval", "test")
    ]
    assert [len(part) for part in videos] == [1, 1, 1]
    assert len(set.union(*videos)) == 3
    spoken = {row["status"] for _, row in read_jsonl(plan.data / "speech/manifest.jsonl")}
    assert spoken == {"ok"}
    assert (plan.out / "base/model.safetensors").is_file()
    again: list[str] = []
    make_rows(plan, again.append)
    assert again == []


@pytest.mark.parametrize(
    ("there", "words", "lacking"),
    [
        ([], [], "recipes/seed.yaml"),
        ([], ["--smoke"], "recipes/seed.yaml"),
        (["recipes/seed.yaml"], ["--smoke"], "recipes/qlora-1xh200.yaml"),
        (["recipes/seed.yaml", "recipes/qlora-1xh200.yaml"], [], "docs/training.md"),
    ],
)
def test_outside_the_repository_one_line_says_what_is_missing_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: list[str], words: list[str], lacking: str
) -> None:
    (tmp_path / "recipes").mkdir()
    for name in there:
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["bench", "convergence", *words])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception) == f"{lacking}: not in {tmp_path}; run this in the root of the repository"
    assert not (tmp_path / "runs").exists()
