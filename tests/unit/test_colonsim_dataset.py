"""The simulator's data folder: published schema, resumable, never mixed with something else."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from surgvivqa_audio.cli import app
from surgvivqa_audio.colonsim import Procedure, SimStore, make_dataset, render
from surgvivqa_audio.errors import ConfigError, MissingFrame
from surgvivqa_audio.files import sha256_file
from surgvivqa_audio.sample import read_samples
from surgvivqa_audio.taxonomy import load_taxonomy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sim") / "data"
    make_dataset(out, procedures=2, clips=3, seed=4, size=32, frames=4)
    return out


def test_the_folder_is_in_the_published_schema(folder: Path) -> None:
    taxonomy = load_taxonomy()
    inside = read_samples(folder / "in_template.jsonl", taxonomy)
    outside = read_samples(folder / "out_template.jsonl", taxonomy)
    assert [s.key.split("/", 1)[1] for s in inside] == [s.key.split("/", 1)[1] for s in outside]
    assert {s.template for s in outside} == {"out"}
    assert {s.video_id for s in inside} == {"sim-004000", "sim-004001"}
    for sample in inside:
        assert sample.answer == taxonomy.type_of(sample.question_type).answer(sample.short_answer).sentence
        for name in sample.frames:
            with Image.open(folder / "frames" / sample.video_id / f"{name}.jpg") as image:
                assert image.size == (32, 32)


def test_the_video_table_and_the_record(folder: Path) -> None:
    with open(folder / "video_info.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["unique_video_name"] for row in rows] == ["sim-004000", "sim-004001"]
    assert rows[0]["fps"] == "25.0"
    record = json.loads((folder / "sim.json").read_text(encoding="utf-8"))
    assert record["complete"] is True
    assert record["seed"] == 4
    assert record["frames"] == 24
    assert record["config"]["size"] == 32


def test_an_interrupted_run_is_finished_with_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        make_dataset(tmp_path / "d", procedures=2, clips=3, seed=4, size=32, frames=4, progress=stop)
    assert not (tmp_path / "d" / "in_template.jsonl").exists()
    make_dataset(tmp_path / "d", procedures=2, clips=3, seed=4, size=32, frames=4)
    hashes = [
        {
            str(path.relative_to(root)): sha256_file(path)
            for path in root.rglob("*.j*")
            if path.name != "sim.json"
        }
        for root in (folder, tmp_path / "d")
    ]
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 26


def test_other_settings_do_not_mix(folder: Path) -> None:
    with pytest.raises(ConfigError, match="other settings"):
        make_dataset(folder, procedures=2, clips=3, seed=5, size=32, frames=4)


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not made by the simulator"):
        make_dataset(tmp_path, procedures=1, clips=1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("values", [(0, 1, 0, 64), (1, 0, 0, 64), (1, 1, -1, 64), (1, 1, 0, 8)])
def test_values_out_of_range_are_refused(values: tuple[int, int, int, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least"):
        make_dataset(tmp_path / "d", *values)
    assert not (tmp_path / "d").exists()


def test_absent_lesions_and_tools_get_the_refusal_when_asked_for(tmp_path: Path) -> None:
    make_dataset(tmp_path / "d", 1, 3, 2, size=32, frames=2, include_unanswerable=True)
    taxonomy = load_taxonomy()
    samples = read_samples(tmp_path / "d" / "in_template.jsonl", taxonomy)
    refused = [s for s in samples if s.short_answer == taxonomy.refusal.short]
    assert refused
    assert {s.answer for s in refused} == {taxonomy.refusal.sentence}
    assert {taxonomy.type_of(s.question_type).requires for s in refused} <= {"lesion", "tool"}


def test_the_store_gives_the_frames_of_a_clip() -> None:
    store = SimStore(size=32)
    spec = Procedure(7).clip(2)
    frames = render(spec, 32).frames
    for place in (0, 7):
        assert np.array_equal(store.read("sim-000007", spec.frame_numbers[place]), frames[place])
    assert store.has("sim-000007", spec.frame_numbers[0])
    assert not store.has("sim-000007", spec.frame_numbers[0] + 1)
    assert not store.has("002-003", 4)
    with pytest.raises(MissingFrame, match="frame 1;"):
        store.read("sim-000007", 1)


def test_the_command_prints_what_it_wrote(tmp_path: Path) -> None:
    arguments = ["sim", "make", str(tmp_path / "d"), "--procedures", "1", "--clips", "1", "--seed", "3"]
    done = CliRunner().invoke(app, [*arguments, "--size", "32", "--frames", "2", "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["procedures"], document["clips"], document["frames"]) == (1, 1, 2)
    assert document["rows"] == sum(sum(answers.values()) for answers in document["by_type"].values())
