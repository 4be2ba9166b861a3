"""The demo in a real Chromium with a fake microphone. See docs/demo.md for what it needs.

``SURGVIVQA_SHOTS=DIR`` also writes a screenshot of each state.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from surgvivqa_audio.answering.bundle import default_model_dir, load_engine
from surgvivqa_audio.apps.cases import Case, SimCases
from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.speech.audio import is_silent, write_wav
from surgvivqa_audio.speech.engine import HELD_OUT_VOICES, EspeakEngine
from surgvivqa_audio.speech.phrasing import phrasing_bank
from surgvivqa_audio.speech.speakable import speakable
from surgvivqa_audio.taxonomy import load_taxonomy

ASKED = "scope_outside"  # asked into the microphone; every clip of the simulator has an answer to it
PATIENCE = 60_000  # ms
SHOTS = os.environ.get("SURGVIVQA_SHOTS", "")


def _missing() -> list[str]:
    """What this machine lacks, each with the command that brings it."""
    lacks = []
    for module, remedy in (("playwright", "pip install playwright"), ("streamlit", "pip install streamlit")):
        if importlib.util.find_spec(module) is None:
            lacks.append(f"Python package {module}: {remedy}")
    if not _chromium():
        lacks.append("Chromium: apt-get install chromium, or set CHROMIUM to its path")
    try:
        default_model_dir()
    except ModelError as error:
        lacks.append(str(error))
    return lacks


def _chromium() -> str:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    return found or ""


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _case() -> Case:
    return SimCases().cases("sim-77000001", ASKED)[0]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A running demo; its Chromium and weights are checked first."""
    lacks = _missing()
    assert not lacks, "the browser test lacks: " + "; ".join(lacks)
    port = _port()
    words = [sys.executable, "-m", "surgvivqa_audio.cli", "demo", "--questions", "0", "--serve"]
    server = subprocess.Popen([*words, "--port", str(port)], start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1):
                break
        except OSError:
            assert server.poll() is None, "the server ended before its first page"
            time.sleep(0.1)
    yield url
    os.killpg(server.pid, signal.SIGINT)
    server.wait(30)


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A question nobody trained on, in a voice nobody trained on, as a microphone file."""
    taxonomy = load_taxonomy()
    path = tmp_path_factory.mktemp("mic") / "question.wav"
    with EspeakEngine() as voice:
        wave = voice.synthesize(speakable(phrasing_bank(taxonomy)[ASKED].held_out[0]), HELD_OUT_VOICES[0])
    assert not is_silent(wave)
    write_wav(path, wave)
    return path


@pytest.fixture
def page(address: str, question: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=_chromium(),
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={question}",
            ],
        )
        size = {"width": 1280, "height": 900}
        context = browser.new_context(viewport=size, permissions=["microphone"])
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        page.get_by_role("heading", name="Ask the operating field").wait_for()
        _shot(page, "1-start")
        page.get_by_role("button", name="Random case").wait_for()
        yield page
        context.close()
        browser.close()


def _shot(page: Any, name: str) -> None:
    if SHOTS:
        page.wait_for_timeout(1200)
        page.screenshot(path=f"{SHOTS}/{name}.png")


def _choose(page: Any, label: str, option: str) -> None:
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=option, exact=True).click()


def test_walk_through(page: Any, tmp_path: Path) -> None:
    taxonomy = load_taxonomy()
    truth = taxonomy.types[ASKED].answer(_case().truth[ASKED]).sentence
    page.get_by_role("heading", name="Answer").wait_for()
    _shot(page, "2-clip")

    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(3500)  # the fake microphone speaks in real time
    page.get_by_role("button", name="Stop recording").click()
    page.locator(".sv-answer .say").wait_for()
    assert page.locator(".sv-answer .say").inner_text() == truth
    page.get_by_text("Show ground truth").click()
    page.get_by_text("The answer is right.").wait_for()
    _shot(page, "3-spoken-answer")

    book = page.frame_locator("iframe").first
    assert book.locator("#label").inner_text().startswith("1/8 · frame ")
    book.locator("#play").click()
    book.get_by_text("3/8 · frame").wait_for()
    book.locator("#player").press("Space")
    book.locator("#player").press("End")
    assert book.locator("#label").inner_text().startswith("8/8 · frame ")
    _shot(page, "4-flipbook")

    _choose(page, "Show clips that answer", "Lesion site")
    page.get_by_text("Ask a question and the answer appears here.").wait_for()
    page.get_by_text("Type", exact=True).click()
    page.get_by_label("Type any question about this clip").fill("Where in the colon is the lesion?")
    page.get_by_role("button", name="Ask in writing").click()
    page.get_by_text("Typed, not spoken.").wait_for()
    _shot(page, "5-typed")

    page.get_by_text("Upload", exact=True).click()
    wrong = tmp_path / "notes.pdf"
    wrong.write_bytes(b"%PDF-1.7")
    page.locator('input[type="file"]').last.set_input_files(wrong)
    page.get_by_text("notes.pdf: not a sound file; upload WAV").wait_for()
    _shot(page, "6-wrong-file")

    files = []
    for at, frame in enumerate(SimCases().load(_case()).frames):
        files.append(tmp_path / f"frame_{at}.jpg")
        PIL.Image.fromarray(frame).save(files[-1])
    page.get_by_role("button", name="Own clip").click()
    page.locator('[data-testid="stPopoverBody"] input[type="file"]').set_input_files(files)
    page.get_by_role("button", name="Open this clip").click()
    page.get_by_role("heading", name="8 uploaded images").wait_for()
    page.keyboard.press("Escape")
    _shot(page, "7-own-clip")


def test_the_expected_answer_is_the_model_s_own() -> None:
    """The walk-through asks what the model can do, so a failure there is the page's."""
    case = _case()
    clip = SimCases().load(case)
    taxonomy = load_taxonomy()
    with EspeakEngine() as voice:
        wave = voice.synthesize(speakable(phrasing_bank(taxonomy)[ASKED].held_out[0]), HELD_OUT_VOICES[0])
    answer = load_engine().open(list(clip.frames), clip.fps).ask(wave)
    assert (answer.question_type, answer.short_answer) == (ASKED, case.truth[ASKED])
