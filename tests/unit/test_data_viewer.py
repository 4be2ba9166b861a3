from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage
from typer.testing import CliRunner

from surgvivqa_audio.commands.data import app
from surgvivqa_audio.data import viewer
from surgvivqa_audio.data.stores import open_store
from surgvivqa_audio.data.viewer import Shown, build_page
from surgvivqa_audio.data.viewer_html import page_html
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.sample import Sample, make_key, read_samples
from surgvivqa_audio.taxonomy import load_taxonomy

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "real-colon-vqa"
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'"


def sample(first: int, kind: str, template: str = "in", **changes: Any) -> Sample:
    numbers = tuple(first + 4 * step for step in range(8))
    answer = load_taxonomy().types[kind].answers[0]
    values: dict[str, Any] = {
        "key": make_key(template, "002-001", first, kind),
        "id": "qa_000001",
        "template": template,
        "video_id": "002-001",
        "frames": tuple(f"002-001_{number}" for number in numbers),
        "frame_numbers": numbers,
        "question": load_taxonomy().types[kind].template(template),
        "question_type": kind,
        "answer": answer.sentence,
        "short_answer": answer.short,
    }
    return Sample(**{**values, **changes})


def shown(row: Sample, **changes: Any) -> Shown:
    values: dict[str, Any] = {
        "system": "ours",
        "key": row.key,
        "question_type": row.question_type,
        "short_answer": row.short_answer,
        "text": f"answer to {row.key}",
        "confidence": 0.5,
        "correct": True,
    }
    return Shown(**{**values, **changes})


class Reader(HTMLParser):
    """What a browser would show, per article."""

    def __init__(self) -> None:
        super().__init__()
        self.articles: dict[str, dict[str, list[str]]] = {}
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self._key = ""
        self._field = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags[tag] += 1
        self.attributes.update(given)
        if tag == "article":
            self._key = given["data-key"] or ""
            self.articles[self._key] = {"question": [], "cells": [], "facts": [], "frames": []}
        self._field = {"h2": "question", "td": "cells", "dd": "facts"}.get(tag, "")
        if tag == "img" and "data-frame" in given:
            self.articles[self._key]["frames"].append(given["data-frame"] or "")

    def handle_endtag(self, tag: str) -> None:
        self._field = ""

    def handle_data(self, data: str) -> None:
        if self._field and self._key:
            self.articles[self._key][self._field].append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_no_row_shows_another_rows_question() -> None:
    # One id for all rows, as published ids collide, and predictions in another order than the rows.
    rows = [
        sample(first, kind, template)
        for kind in load_taxonomy().types
        for first in (1, 5)
        for template in ("in", "out")
    ]
    page = build_page("x", rows, None, None, {}, [shown(row) for row in reversed(rows)])
    articles = read(page_html(page, load_taxonomy())).articles
    assert len(articles) == len(rows) == 80
    for row in rows:
        article = articles[row.key]
        assert article["question"] == [row.question]
        assert article["cells"][1] == f"answer to {row.key}"
        assert article["facts"][:2] == [row.answer, row.short_answer]
        assert article["facts"][4] == row.key


def test_predictions_of_other_rows_are_listed_not_shown() -> None:
    row = sample(1, "nbi_status")
    wrong = [
        shown(row, key="in/002-001/9/nbi_status"),
        shown(row, question_type="lighting_mode"),
        shown(row, short_answer="no"),
        shown(row, key=""),
    ]
    page = build_page("x", [row], None, None, {}, wrong)
    assert page.rows[0].predictions == []
    assert len(page.unjoined) == 4
    assert "4 predictions are not shown" in page_html(page, load_taxonomy())


def test_everything_is_escaped_and_nothing_is_loaded() -> None:
    row = sample(1, "nbi_status", question=HOSTILE, answer=HOSTILE, id=HOSTILE)
    page = build_page(HOSTILE, [row], None, None, {}, [shown(row, text=HOSTILE, system=HOSTILE)])
    page.pictures[HOSTILE] = HOSTILE
    text = page_html(page, load_taxonomy())
    reader = read(text)
    assert reader.tags["script"] == 3
    assert reader.tags["img"] == 0
    assert not {name for name in reader.attributes if name.startswith("on")}
    assert not {"src", "href"} & reader.attributes
    assert reader.articles[row.key]["question"] == [HOSTILE]


def test_the_policy_allows_exactly_the_script_on_the_page() -> None:
    text = page_html(build_page("x", [sample(1, "nbi_status")], None, None, {}), load_taxonomy())
    script = text.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text
    for word in ("innerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "http"):
        assert word not in script


def test_missing_frames_are_named_on_the_page(tmp_path: Path) -> None:
    page = build_page("x", [sample(1, "nbi_status")], None, None, {})
    assert len(page.rows[0].missing) == 8
    assert "002-001/5: no frames folder" in page_html(page, load_taxonomy())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "DATA"
    (folder / "frames" / "002-001").mkdir(parents=True)
    for number in range(1, 38, 4):
        pixels = np.full((30, 40, 3), number, np.uint8)
        PillowImage.fromarray(pixels).save(folder / "frames" / "002-001" / f"002-001_{number}.jpg")
    rows = [sample(1, "nbi_status"), sample(9, "scope_motion")]
    (folder / "in_template.jsonl").write_text("\n".join(json.dumps(row.to_row()) for row in rows))
    audio = folder / "speech" / "audio" / "a.wav"
    audio.parent.mkdir(parents=True)
    audio.write_bytes(b"RIFF")
    assignment = {"key": rows[0].key, "variant": "v", "file": "audio/a.wav", "status": "ok"}
    (folder / "speech" / "assignments.jsonl").write_text(json.dumps(assignment))
    predictions = [
        {
            "key": row.key,
            "question_id": row.id,
            "question_type": row.question_type,
            "question": row.question,
            "ground_truth": row.answer,
            "short_answer": row.short_answer,
            "predicted_answer": "Yes." if row.question_type == "nbi_status" else "No.",
            "confidence": 0.75,
        }
        for row in rows
    ]
    (tmp_path / "ours.jsonl").write_text("\n".join(map(json.dumps, predictions)))
    return folder


def test_a_page_that_grows_too_large_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "MAX_PAGE_BYTES", 2000)
    rows = read_samples(data / "in_template.jsonl", load_taxonomy())
    with pytest.raises(ConfigError, match="after 0 rows; use --limit"):
        build_page("x", rows, open_store(data), None, {})


def test_view_command(data: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["view", str(data), "--predictions", str(tmp_path / "ours.jsonl")])
    assert run.exit_code == 0, run.output
    text = (data / "viewer.html").read_text(encoding="utf-8")
    articles = read(text).articles
    assert articles["in/002-001/1/nbi_status"]["cells"] == ["ours", "Yes.", "right", "0.75"]
    assert articles["in/002-001/9/scope_motion"]["cells"] == ["ours", "No.", "wrong", "0.75"]
    assert articles["in/002-001/9/scope_motion"]["frames"] == [f"002-001/{n}" for n in range(9, 38, 4)]
    pictures = json.loads(re.findall(r"id=pictures>(.*?)</script>", text)[0])
    # Ten distinct frames of two overlapping clips are stored once each.
    assert len(pictures) == 10
    assert "1 recordings" in run.output
    assert text.count('data-sound="audio/a.wav"') == 1


@pytest.mark.data
@pytest.mark.skipif(not (REAL / "in_template.jsonl").is_file(), reason=f"{REAL} is absent")
def test_published_predictions_without_keys(tmp_path: Path) -> None:
    from surgvivqa_audio.commands.viewing import shown_predictions

    samples = read_samples(REAL / "in_template.jsonl", load_taxonomy())
    out = [
        row.model_copy(
            update={
                "key": "out/" + row.key.partition("/")[2],
                "template": "out",
                "question": load_taxonomy().types[row.question_type].out_template,
            }
        )
        for row in samples
    ]
    found, _ = shown_predictions([REAL / "predictions_sample.jsonl"], out, load_taxonomy())
    assert len(found) > 50
    rows = {row.key: row for row in out}
    page = build_page("x", [rows[each.key] for each in found], None, None, {}, found)
    assert page.unjoined == []
