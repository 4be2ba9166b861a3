"""The stages of `surgvivqa reproduce` as commands, and the notes that let it continue."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from surgvivqa_audio.commands.reproduce import PUBLISHED_TEST, PUBLISHED_VIDEOS, Road, _done, _note, stages

ROAD = Road(
    Path("recipes/seed.yaml"), Path("DATA"), Path("OUT"), "audio+text", "seed", PUBLISHED_VIDEOS,
    PUBLISHED_TEST,
    "seed", "", "", 1, [],
)  # fmt: skip


def test_the_road_of_the_seed_recipe_is_the_published_one() -> None:
    made = stages(ROAD)
    assert list(made) == [
        "fetch", "verify", "speech-in", "speech-out", "split", "train", "eval", "test", "baselines", "report",
    ]  # fmt: skip
    assert " ".join(made["split"]) == (
        "data split DATA/in_template.jsonl OUT/splits --policy seed --held-out 002-004 "
        "--videos 002-001 002-002 002-003 002-004"
    )
    assert " ".join(made["train"]) == (
        "train recipes/seed.yaml --out OUT/train --resume --set data.folder=DATA "
        "--set data.train=OUT/splits/train.jsonl --set data.eval=OUT/splits/eval.jsonl"
    )
    assert " ".join(made["test"]) == (
        "eval run DATA --system audio+text --rows OUT/splits/test.jsonl --out OUT/predictions/test.jsonl "
        "--model OUT/train/model --train OUT/splits/train.jsonl --device auto"
    )
    assert "audio-zeroshot,noframes,majority,constant" in made["baselines"]


def test_what_is_asked_for_reaches_its_stage() -> None:
    changed = dataclasses.replace(
        ROAD, layout="stream", source="S", listing="L", overrides=["seed=3"], device="cpu"
    )
    made = stages(changed)
    assert made["annotations"] == ["data", "fetch", "annotations", "DATA", "--source", "S"]
    assert made["fetch"][-2:] == ["--listing", "L"]
    assert made["train"][-2:] == ["--set", "seed=3"]
    assert all(made[name][-2:] == ["--device", "cpu"] for name in ("eval", "test", "baselines"))
    assert "text-zeroshot,audio-zeroshot,noframes,majority,constant" in made["baselines"]


def test_a_stage_is_done_only_under_the_same_command(tmp_path: Path) -> None:
    note = tmp_path / "stages" / "split.json"
    assert not _done(note, ["data", "split"])
    _note(note, ["data", "split"], 1.23)
    assert _done(note, ["data", "split"])
    assert not _done(note, ["data", "split", "--seed", "1"])
