"""The demo in a real Chromium with a fake microphone. See docs/demo.md for what it needs.

``SURGVIVQA_SHOTS=DIR`` also writes a screenshot of each state, ``SURGVIVQA_TIMINGS=FILE`` the times, which
are recorded and not asserted: a test that fails on a busy machine proves nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import demo_walk as walk
import pytest

from surgvivqa_audio.apps.cases import SimCases
from surgvivqa_audio.files import write_json
from surgvivqa_audio.taxonomy import load_taxonomy

SHOTS = os.environ.get("SURGVIVQA_SHOTS", "")
TIMINGS = os.environ.get("SURGVIVQA_TIMINGS", "")


def shot(page: Any, name: str) -> None:
    if SHOTS:
        page.wait_for_timeout(1500)
        page.screenshot(path=f"{SHOTS}/{name}.png")


@pytest.fixture(scope="module", autouse=True)
def _equipment() -> None:
    lacks = walk.missing()
    assert not lacks, "the browser test lacks: " + "; ".join(lacks)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, float]]:
    """A browser whose microphone asks the question, and how long to record."""
    wave = walk.spoken()
    with walk.browser(walk.microphone_file(tmp_path_factory.mktemp("microphone"), wave)) as browser:
        yield browser, walk.LEAD_S + wave.size / walk.SAMPLE_RATE + 1.0


def test_walk_through(opened: tuple[Any, float], tmp_path: Path) -> None:
    browser, seconds = opened
    taxonomy = load_taxonomy()
    first, second = walk.cases()
    assert first.truth[walk.ASKED] != second.truth[walk.ASKED]
    times: dict[str, Any] = {}
    with walk.visitor(browser) as page:
        start = time.perf_counter()
        with walk.serving() as url:

            def state(page: Any, name: str) -> None:
                if name == "1-start":
                    times["first_page_s"] = round(time.perf_counter() - start, 3)
                shot(page, name)

            walk.arrive(page, url, state)
            times["model_ready_s"] = round(time.perf_counter() - start, 3)
            walk.open_case(page, first)
            shot(page, "2-clip")
            times["answer_s"] = []
            for case, name in ((first, "4-spoken-answer"), (second, "4-second-answer")):
                if case is second:
                    walk.open_case(page, case)
                times["answer_s"].append(round(walk.record(page, seconds, shot), 3))
                assert walk.answer(page) == taxonomy.types[walk.ASKED].answer(case.truth[walk.ASKED]).sentence
                walk.confirm(page)
                shot(page, name)
            walk.use_flipbook(page, shot)
            walk.type_question(page, shot)
            walk.upload_questions(page, tmp_path, shot)
            walk.own_clips(page, tmp_path, SimCases().load(first), shot)
            document = walk.export(page)
            ways = ["microphone", "microphone", "typed", "upload"]
            assert [row["way"] for row in document["questions"]] == ways
            assert [row["ground_truth"]["correct"] for row in document["questions"][:2]] == [True, True]
            times["engine_ms"] = [row["timings_ms"]["total"] for row in document["questions"][:2]]
            _second_visitor(browser, page, url)
    if TIMINGS:
        write_json(Path(TIMINGS), times)


def _second_visitor(browser: Any, page: Any, url: str) -> None:
    """Another visitor begins with the first clip and leaves this one's clip alone."""
    with walk.visitor(browser) as other:
        walk.arrive(other, url, shot)
        other.get_by_role("heading", name=f"{walk.PATIENT}, clip 1", exact=True).wait_for()
        other.get_by_text(walk.EMPTY).wait_for()
        assert page.get_by_role("heading", name="clip.mp4").is_visible()


def test_a_stranger_sees_nothing_without_the_token(opened: tuple[Any, float]) -> None:
    with (
        walk.serving("--token", "0123456789abcdef") as url,
        walk.visitor(opened[0]) as page,
    ):
        page.goto(url)
        page.get_by_label("Access token").fill("wrong")
        page.get_by_label("Access token").press("Enter")
        page.get_by_text("That is not the token of this server.").wait_for()
        assert page.get_by_role("heading", name="Answer").count() == 0
        page.get_by_label("Access token").fill("0123456789abcdef")
        page.get_by_label("Access token").press("Enter")
        page.get_by_role("heading", name="Answer").wait_for()
