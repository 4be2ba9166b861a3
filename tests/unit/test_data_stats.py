from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from surgvivqa_audio.commands.data import app
from surgvivqa_audio.data.stats import data_stats, markdown, read_parts
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.sample import Sample, make_key
from surgvivqa_audio.taxonomy import load_taxonomy


def sample(first: int, kind: str, short: str, video: str) -> Sample:
    taxonomy = load_taxonomy()
    numbers = tuple(first + 4 * step for step in range(8))
    return Sample(
        key=make_key("in", video, first, kind),
        id="q",
        template="in",
        video_id=video,
        frames=tuple(f"{video}_{number}" for number in numbers),
        frame_numbers=numbers,
        question=taxonomy.types[kind].in_template,
        question_type=kind,
        answer=taxonomy.types[kind].answer(short).sentence,
        short_answer=short,
    )


PARTS = {
    "train": [
        sample(0, "nbi_status", "yes", "a-1"),
        sample(50, "nbi_status", "no", "a-1"),
        sample(90, "lesion_site", "sigma", "a-2"),
    ],
    "test": [sample(0, "nbi_status", "no", "a-3")],
}


def test_counts_per_part() -> None:
    stats = data_stats(PARTS, load_taxonomy())
    train = stats["parts"]["train"]
    assert train["domains"] == {"positions": 1, "operation_notes": 2}
    assert (train["rows"], train["yes_no"], train["limited_choice"]) == (3, 2, 1)
    assert train["videos"] == {"a-1": 2, "a-2": 1}
    assert train["answers"]["nbi_status"] == {"yes": 1, "no": 1}
    assert train["single_class_types"] == {"lesion_site": "sigma"}
    assert train["informative"] == {"nbi_status": 2}
    assert stats["parts"]["test"]["single_class_types"] == {"nbi_status": "no"}
    assert stats["missing_types"] == {"train": [], "test": ["lesion_site"]}


def test_markdown_has_a_row_per_answer() -> None:
    page = markdown(data_stats(PARTS, load_taxonomy()), load_taxonomy())
    assert "| train | 3 | a-1, a-2 | 2 | 1 | 2 | 1 |" in page
    assert "| nbi_status | no | 1 | 1 |" in page
    assert "| Positions | 1 | 0 |" in page
    assert "| test | nbi_status (no) |" in page


def write_parts(folder: Path) -> None:
    for name, rows in {**PARTS, "eval": []}.items():
        text = "".join(json.dumps(row.to_row()) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def test_command_writes_both_files(tmp_path: Path) -> None:
    write_parts(tmp_path)
    run = CliRunner().invoke(app, ["stats", str(tmp_path), "--no-plots"])
    assert run.exit_code == 0, run.output
    assert json.loads((tmp_path / "data_stats.json").read_text())["parts"]["eval"]["rows"] == 0
    assert (tmp_path / "data_distribution.md").read_text().startswith("# Distribution of the data")


def test_a_folder_without_annotations_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="split first"):
        read_parts(tmp_path, load_taxonomy())
