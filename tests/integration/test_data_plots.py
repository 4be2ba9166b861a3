from __future__ import annotations

import json
from pathlib import Path

import pytest

from surgvivqa_audio.data.stats import write_stats
from surgvivqa_audio.sample import Sample, make_key
from surgvivqa_audio.taxonomy import load_taxonomy

pytestmark = pytest.mark.integration


def row(first: int, kind: str, short: str) -> str:
    taxonomy = load_taxonomy()
    numbers = tuple(first + 4 * step for step in range(8))
    sample = Sample(
        key=make_key("in", "a-1", first, kind),
        id="q",
        template="in",
        video_id="a-1",
        frames=tuple(f"a-1_{number}" for number in numbers),
        frame_numbers=numbers,
        question=taxonomy.types[kind].in_template,
        question_type=kind,
        answer=taxonomy.types[kind].answer(short).sentence,
        short_answer=short,
    )
    return json.dumps(sample.to_row()) + "\n"


def test_plots_are_png_and_repeatable(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(row(0, "nbi_status", "yes") + row(9, "lesion_site", "sigma"))
    (tmp_path / "test.jsonl").write_text(row(0, "nbi_status", "no"))
    written = write_stats(tmp_path, tmp_path, load_taxonomy())
    plots = [path for path in written if path.suffix == ".png"]
    assert {path.name for path in plots} == {
        "data_types.png",
        "data_domains.png",
        "data_videos.png",
        "data_answers.png",
    }
    first = [path.read_bytes() for path in plots]
    assert all(content.startswith(b"\x89PNG") for content in first)
    write_stats(tmp_path, tmp_path, load_taxonomy())
    assert [path.read_bytes() for path in plots] == first
