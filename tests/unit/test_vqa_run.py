"""What surrounds the training step: best state, log, reason of the end, plots, scores, base checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_vqa_data import make_folder
from transformers import EarlyStoppingCallback

from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.answering.whole import WholePromptSystem
from surgvivqa_audio.errors import ConfigError, MissingExtra, ModelError
from surgvivqa_audio.model.counts import count_parts
from surgvivqa_audio.model.loading import ADAPTER, load_graft
from surgvivqa_audio.model.quantize import quantised
from surgvivqa_audio.model.sizes import named_config
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Spoken
from surgvivqa_audio.scoring.rows import Prediction
from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training.accuracy import figures
from surgvivqa_audio.training.budget import memory_gib, row_flops
from surgvivqa_audio.training.callbacks import BestKeeper, RunLog, stop_reason
from surgvivqa_audio.training.dry_run import plan
from surgvivqa_audio.training.plots import draw
from surgvivqa_audio.training.vqa_arguments import training_arguments
from surgvivqa_audio.training.vqa_model import bare, finish, load_trained, prepare, save_parts
from surgvivqa_audio.training.vqa_recipe import VqaRecipe
from surgvivqa_audio.training.vqa_trainer import VqaTrainer, WholeUpdates
from tiny_graft import nano_graft, nano_processor, tone


def state(step: int, **more: Any) -> SimpleNamespace:
    return SimpleNamespace(
        global_step=step, max_steps=100, epoch=step / 50, is_world_process_zero=True, **more
    )


def test_the_best_state_is_kept_and_older_ones_go(tmp_path: Path) -> None:
    keeper = BestKeeper(tmp_path, lambda folder: (folder / "weights").write_text("x") and None)
    for step, loss in ((10, 2.0), (20, 1.0), (30, 1.0), (40, 1.5)):
        keeper.on_evaluate(None, state(step), None, {"eval_loss": loss})
    assert [path.name for path in tmp_path.iterdir()] == ["step-20"]
    assert keeper.state()["attributes"] == {"loss": 1.0, "step": 20, "epoch": 0.4}
    assert (keeper.path / "weights").read_text() == "x"


def test_the_log_is_cut_back_to_where_a_run_continues(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (5, 10, 15)))
    seen: list[dict[str, Any]] = []
    log = RunLog(path, lambda: 0, seen.append)
    log.on_train_begin(None, state(10), None)
    log.on_log(SimpleNamespace(world_size=2), state(20), None, {"loss": 0.5})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(5, 1.0), (10, 1.0), (20, 0.5)]
    assert seen[0]["of"] == 100
    assert {"tokens_per_second", "eta_seconds", "memory_gib"} <= seen[0].keys()


def test_processor_seconds_add_up_over_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [{"step": 10, "processor_seconds": 500.0}, {"step": 20, "processor_seconds": 9000.0}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    log = RunLog(path, lambda: 0, None)
    log.on_train_begin(None, state(10), None)
    sum(range(10**6))
    log.on_log(SimpleNamespace(world_size=1), state(12), None, logs={"loss": 1.0})
    last = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    assert last["step"] == 12
    assert 500.0 < last["processor_seconds"] < 600.0


def test_the_reason_of_the_end_is_said() -> None:
    stopper = EarlyStoppingCallback(3)
    assert stop_reason(stopper, state(100)) == "all steps done"
    assert stop_reason(None, state(100)) == "all steps done"
    assert stop_reason(None, state(60)) == "stopped from outside"
    stopper.early_stopping_patience_counter = 3
    assert stop_reason(stopper, state(60)) == "early stopping: 3 evaluations without a lower eval_loss"


def test_a_loss_that_is_not_finite_names_its_rows() -> None:
    trainer = SimpleNamespace(state=state(6))
    VqaTrainer._finite(trainer, torch.tensor(1.0), ["a"], "training")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="update 7: the training loss is nan on in/v/1/a, in/v/2/b"):
        VqaTrainer._finite(trainer, torch.tensor(float("nan")), ["in/v/1/a", "in/v/2/b"], "training")  # type: ignore[arg-type]


def test_the_last_update_of_an_epoch_is_full() -> None:
    sampler = WholeUpdates(2302, 42, update=8)
    order = sampler.order(0)
    assert (len(sampler), len(order), len(set(order))) == (2304, 2304, 2302)
    assert order[2302:] == order[:2]
    assert sampler.order(1) != order
    assert len(WholeUpdates(3, 0, update=8).order(0)) == 8
    assert sampler.describe()["update"] == 8


def test_plots_and_the_page_come_from_the_log_alone(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "x": None}]
    rows += [{"step": 2, "eval_loss": 1.5}, {"step": 2, "eval_accuracy": 0.5, "eval_accuracy/a<b": 0.25}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    written = draw(tmp_path, "a run", best=2)
    names = ["train_loss.png", "eval_loss.png", "eval_accuracy.png", "training.html"]
    assert [path.name for path in written] == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[:3])
    page = written[3].read_text()
    assert page.count("<svg") == 3
    assert "<td>a&lt;b</td><td>25.0</td>" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert [path.name for path in draw(tmp_path / "empty", "nothing")] == ["training.html"]


def test_accuracy_is_that_of_the_scorer(taxonomy: Taxonomy) -> None:
    kind = taxonomy.types["mucosa_visibility"]
    gold, other = kind.answers[0], kind.answers[1]

    def row(key: str, predicted: str) -> Prediction:
        return Prediction(key, key, kind.name, kind.in_template, gold.sentence, gold.short, predicted)

    measured = figures([row("a", gold.sentence), row("b", other.sentence)], taxonomy)
    assert measured == {
        "eval_accuracy": 0.5,
        "eval_balanced": 0.5,
        "eval_accuracy/mucosa_visibility": 0.5,
    }


def seed_processor(**changes: Any) -> AudioGraftProcessor:
    ours = nano_processor()
    return AudioGraftProcessor(
        ours.feature_extractor,
        ours.tokenizer,
        max_side=64,
        layout="seed",
        **{"audio_length": "natural", **changes},
    )


@pytest.mark.parametrize("pathway", ["images", "video"])
def test_seed_prompts_are_scored_as_each_sentence_alone(
    taxonomy: Taxonomy, make_frames: Any, pathway: str
) -> None:
    processor = seed_processor(pathway=pathway)
    model = nano_graft(processor)
    engine = AnswerEngine(model, processor, taxonomy, name="tiny")
    system = WholePromptSystem("audio+text", engine, "audio+text")
    clip = processor.clip(make_frames(4, 64), 6.25)
    mel = processor.mel(tone(0.8))
    scores = system.score(processor.encode(clip, [Spoken("audio+text", mel, "Is it clear?")]))
    assert scores.shape == (len(engine.sentences),)
    for place in (0, 7, len(engine.sentences) - 1):
        row = processor.encode(clip, [Spoken("audio+text", mel, "Is it clear?", engine.sentences[place][0])])
        batch: dict[str, Any] = collate([row], processor.special.pad)
        with torch.no_grad():
            loss = model(**batch, num_items_in_batch=1).loss
        assert float(scores[place]) == pytest.approx(-float(loss), abs=1e-3)
    with pytest.raises(ConfigError, match="always holds audio"):
        WholePromptSystem("text", engine, "text")


def tiny_checkpoint(folder: Path) -> Path:
    processor = nano_processor()
    nano_graft(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def recipe(model: Path, **changes: Any) -> VqaRecipe:
    prompt = {"max_side": 64, **changes.pop("prompt", {})}
    tune = {"weights": "fp32", "lora_rank": 4, **changes.pop("tune", {})}
    return VqaRecipe(stage="vqa", model=str(model), prompt=prompt, tune=tune, **changes)


@pytest.mark.parametrize("parts", ["lora", "projector"])
def test_a_run_folder_loads_like_any_checkpoint(tmp_path: Path, parts: str) -> None:
    chosen = recipe(
        tiny_checkpoint(tmp_path / "base"),
        prompt={
            "layout": "seed",
            "pathway": "images",
            "audio_length": "30s",
            "stack": 1,
            "projector": "linear",
        },
        tune={"parts": parts},
    )
    folder = tmp_path / "model"
    assert prepare(chosen, folder) is True  # another stack: the projector is new
    torch.manual_seed(0)
    trained = load_trained(chosen, folder)
    names = {name for name, parameter in trained.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "audio_projector" in name for name in names)
    assert any("lora_" in name for name in names) == (parts == "lora")
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if name in names:
                parameter.add_(0.01)
    (tmp_path / "best").mkdir()
    save_parts(trained, tmp_path / "best")
    finish(folder, tmp_path / "best", chosen)
    tuned = load_graft(folder, stage="tuned" if parts == "lora" else "base")
    wanted = dict(trained.named_parameters())
    kept = "base_model.model.audio_projector.modules_to_save.default.weight"
    assert torch.equal(
        tuned.audio_projector.weight, wanted[kept if parts == "lora" else "audio_projector.weight"]
    )
    assert (tuned.config.layout, tuned.config.stack, tuned.config.projector) == ("seed", 1, "linear")
    processor = AudioGraftProcessor.from_pretrained(folder)
    assert (processor.layout, processor.audio_length, processor.pathway) == ("seed", "30s", "images")
    assert (folder / ADAPTER).is_dir() == (parts == "lora")
    with pytest.raises(ModelError, match="kept no state"):
        finish(folder, tmp_path / "absent", chosen)


def test_the_projector_is_kept_where_it_fits(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base")
    assert prepare(recipe(base), tmp_path / "model") is False
    before, after = (load_graft(tmp_path / name, stage="base") for name in ("base", "model"))
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


def test_a_dry_run_counts_and_estimates(
    tmp_path: Path, taxonomy: Taxonomy, make_frames: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether activations are recomputed hangs on the memory that other programs leave.
    monkeypatch.setattr("surgvivqa_audio.training.budget.memory_of_device", lambda: 4.0 * 2**30)
    folder = make_folder(tmp_path / "data", taxonomy, make_frames, clips=5)
    data = {"folder": str(folder), "train": "train.jsonl", "eval": "eval.jsonl"}
    trainer = {"gradient_accumulation_steps": 2, "num_train_epochs": 3, "eval_steps": 2}
    found = plan(recipe(tiny_checkpoint(tmp_path / "base"), data=data, trainer=trainer))
    assert found["rows"] == {"train": 5, "eval": 1, "of_the_batch": 5}
    assert found["updates"] == {"epoch": 3, "total": 9, "warmup": 1}
    assert found["evaluations"] == 4
    assert found["recompute_activations"] is False
    tokens = found["tokens_per_row"]
    assert tokens["visual"] == 16.0  # 64 px: 2 x 2 tokens in each of 4 slices
    assert tokens["all"] == tokens["visual"] + tokens["audio"] + tokens["text"] + tokens["answer"]
    assert found["tokens_per_epoch"] == round(tokens["all"] * 5)
    assert found["estimates"]["memory_gib"] == 0.5  # the libraries; the tiny model is nothing beside them
    assert found["estimates"]["hours"].keys() == {"4090", "a100", "h200"}


def test_recomputing_saves_memory_and_costs_a_pass(tmp_path: Path) -> None:
    config = named_config("7b")
    parts = count_parts(config)
    chosen = VqaRecipe(stage="vqa", tune={"quantise": "nf4"}, trainer={"optim": "adamw_8bit"})
    kept, recomputed = (memory_gib(config, parts, 800, chosen, recompute) for recompute in (False, True))
    assert recomputed < kept - 5
    assert 8 < recomputed < 14
    tokens = {"all": 800.0, "patches": 2464.0, "encoder": 150.0, "answer": 10.0}
    fast, slow = (row_flops(config, parts, tokens, chosen, recompute) for recompute in (False, True))
    assert 1.3 < slow / fast < 1.5


def test_a_4bit_run_stores_the_base_it_trains_on(tmp_path: Path) -> None:
    from bitsandbytes.functional import dequantize_4bit

    chosen = recipe(tiny_checkpoint(tmp_path / "base"), tune={"quantise": "nf4", "weights": "bf16"})
    prepare(chosen, tmp_path / "model")
    layers = quantised(bare(load_trained(chosen, tmp_path / "model")))
    stored = load_graft(tmp_path / "model", stage="base", dtype=torch.bfloat16).state_dict()
    original = load_graft(tmp_path / "base", stage="base", dtype=torch.bfloat16).state_dict()
    assert len(layers) == 3 * 7
    for name, layer in layers.items():
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(torch.bfloat16)
        plain = f"{name.removesuffix('.base_layer')}.weight"
        assert torch.equal(weight, stored[plain])
        assert not torch.equal(weight, original[plain])
    assert torch.equal(stored["audio_projector.down.weight"], original["audio_projector.down.weight"])


def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    chosen = VqaRecipe(stage="vqa", trainer={"report_to": ["trackio"]})
    with pytest.raises(MissingExtra, match="report_to trackio is not installed; pip install trackio"):
        training_arguments(chosen, tmp_path)
