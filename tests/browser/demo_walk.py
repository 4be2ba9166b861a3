"""What a visitor does on the demo page, step by step, in a real Chromium with a fake microphone.

The test, the repetitions and the recording for the documentation take the same steps; a state's name is
handed to ``state`` as soon as the page shows it.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image

from surgvivqa_audio.answering.bundle import default_model_dir
from surgvivqa_audio.apps.cases import Case, ClipView, SimCases
from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.speech.audio import SAMPLE_RATE, Wave, wav_bytes
from surgvivqa_audio.speech.engine import HELD_OUT_VOICES, EspeakEngine
from surgvivqa_audio.speech.phrasing import phrasing_bank
from surgvivqa_audio.speech.speakable import speakable
from surgvivqa_audio.taxonomy import load_taxonomy

# Fixed before any answer was seen: the first patient of the demo, which no recipe trains on, and the first
# of its clips under each of the two lights, so that no constant answer can be right both times.
PATIENT = "sim-77000001"
ASKED = "lighting_mode"
PATIENCE = 180_000  # ms; a busy machine is slow, not broken
LEAD_S, REST_S = 2.0, 25.0  # silence in the microphone file: nothing is cut, and the file does not start over
SIZE = {"width": 1280, "height": 900}
EMPTY = "Ask a question and the answer appears here."
State = Callable[[Any, str], None]
# The browser's own clock, from the click that ends the recording to the frame that shows the answer.
_CLOCK = """() => {
  window.svAsked = new Promise((resolve) => {
    let start;
    document.addEventListener("click", () => { start = performance.now(); }, { capture: true, once: true });
    const seen = () => start !== undefined && document.querySelector(".sv-answer .say");
    const watch = new MutationObserver(() => {
      if (!seen()) return;
      watch.disconnect();
      requestAnimationFrame(() => requestAnimationFrame(() => resolve((performance.now() - start) / 1000)));
    });
    watch.observe(document.body, { subtree: true, childList: true, characterData: true });
  });
}"""
_ONE_UPLOADER = "() => document.querySelectorAll('[data-testid=stPopoverBody] input[type=file]').length === 1"


def missing() -> list[str]:
    """What this machine lacks, each with the command that brings it."""
    lacks = []
    for module, remedy in (
        ("playwright", "pip install playwright -c constraints.txt"),
        ("streamlit", "pip install 'surgvivqa-audio[ui]'"),
    ):
        if importlib.util.find_spec(module) is None:
            lacks.append(f"Python package {module}: {remedy}")
    if not chromium():
        lacks.append(
            "Chromium: apt-get install chromium, or python -m playwright install --with-deps chromium, "
            "or set CHROMIUM to its path"
        )
    try:
        default_model_dir()
    except ModelError as error:
        lacks.append(str(error))
    return lacks


def chromium() -> str:
    """The browser: the named one, the system's, else Playwright's own; empty where there is none."""
    for found in (os.environ.get("CHROMIUM"), shutil.which("chromium"), shutil.which("google-chrome")):
        if found:
            return found
    if importlib.util.find_spec("playwright") is None:
        return ""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        path = Path(play.chromium.executable_path)
    return str(path) if path.is_file() else ""


def cases() -> list[Case]:
    """The first clip of the patient under each light, in order of appearance."""
    first: dict[str, Case] = {}
    for case in SimCases().cases(PATIENT, ASKED):
        first.setdefault(case.truth[ASKED], case)
    return list(first.values())


def spoken() -> Wave:
    """A question in a wording and a voice that nobody trained on: float32 (samples,) at 16 kHz."""
    wording = phrasing_bank(load_taxonomy())[ASKED].held_out[0]
    with EspeakEngine() as voice:
        return voice.synthesize(speakable(wording), HELD_OUT_VOICES[0])


def microphone_file(folder: Path, wave: Wave) -> Path:
    """What the fake microphone hears: silence, the question, silence."""
    lead, rest = (np.zeros(int(seconds * SAMPLE_RATE), np.float32) for seconds in (LEAD_S, REST_S))
    path = folder / "microphone.wav"
    path.write_bytes(wav_bytes(np.concatenate([lead, wave, rest])))
    return path


@contextmanager
def browser(microphone: Path) -> Iterator[Any]:
    """A Chromium that takes the file for its microphone."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(
            executable_path=chromium(),
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={microphone}",
            ],
        )
        yield opened
        opened.close()


@contextmanager
def visitor(opened: Any, **options: Any) -> Iterator[Any]:
    """An empty page of a new visitor."""
    context = opened.new_context(permissions=["microphone"], **{"viewport": SIZE, **options})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    yield page
    context.close()


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """A demo on a free port, as a person starts it; ends with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    words = [sys.executable, "-m", "surgvivqa_audio.cli", "demo", "--questions", "0", "--serve"]
    server = subprocess.Popen([*words, "--port", str(port), *options], start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, server)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait(60)


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE / 1000
    while True:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1):
                return
        except OSError:
            assert server.poll() is None, "the server ended before its first page"
            assert time.monotonic() < end, "the server did not answer"
            time.sleep(0.05)


def choose(page: Any, label: str, option: str) -> None:
    """Pick an entry of a select box as with the keyboard: type it, take the first match."""
    box = page.get_by_role("combobox", name=label, exact=True)
    box.click()
    box.fill(option)
    page.get_by_role("option", name=option, exact=True).first.wait_for()
    box.press("Enter")


def arrive(page: Any, url: str, state: State) -> None:
    """Open the page and wait until the model is warm."""
    page.goto(url)
    page.get_by_role("heading", name="Ask the operating field").wait_for()
    state(page, "1-start")
    page.get_by_role("heading", name="Answer").wait_for()


def open_case(page: Any, case: Case) -> None:
    """Pick a clip of the list and wait until it is open."""
    choose(page, "Clip", case.label)
    page.get_by_role("heading", name=f"{case.procedure}, clip {case.index + 1}", exact=True).wait_for()
    page.get_by_text(EMPTY).wait_for()


def record(page: Any, seconds: float, state: State) -> float:
    """Speak into the microphone for so many seconds; returns the seconds from the stop to the answer."""
    page.get_by_text(EMPTY).wait_for()
    page.get_by_role("button", name="Record", exact=True).click()
    stop = page.get_by_role("button", name="Stop recording")
    stop.wait_for()
    page.wait_for_timeout(1000 * seconds)  # the fake microphone speaks in real time
    state(page, "3-recording")
    page.evaluate(_CLOCK)
    stop.click()
    page.locator(".sv-answer .say").wait_for()
    return float(page.evaluate("window.svAsked"))


def answer(page: Any) -> str:
    """The sentence that is shown large."""
    return str(page.locator(".sv-answer .say").inner_text())


def confirm(page: Any) -> None:
    """Ask for the ground truth and say that the understood question was the one asked."""
    if not page.get_by_role("switch", name="Show ground truth").is_checked():
        page.get_by_text("Show ground truth").click()
    page.get_by_text("Was that your question?").wait_for()
    page.get_by_role("button", name="Yes, I asked that").click()
    page.get_by_text("The answer is right.").wait_for()


def use_flipbook(page: Any, state: State) -> None:
    """Play, stop, step, zoom and look at all frames, by button and by key."""
    book = page.frame_locator("iframe").first
    label = book.locator("#label")
    assert label.inner_text().startswith("1/8 · frame ")
    book.locator("#play").click()
    book.get_by_text(re.compile(r"^3/8 · frame \d+ · 0\.32 s$")).wait_for()
    state(page, "5-playing")
    player = book.locator("#player")
    player.press("Space")
    player.press("End")
    assert label.inner_text().startswith("8/8 · frame ")
    player.press("ArrowLeft")
    assert label.inner_text().startswith("7/8 · frame ")
    player.press("+")
    assert book.locator("#rate").inner_text() == "3 FPS"
    player.press("z")
    assert book.locator("#zoom").inner_text() == "Zoom 2×"
    state(page, "6-zoom")
    player.press("z")
    player.press("z")
    book.locator("#all").click()
    assert book.locator("#grid img").count() == 8
    state(page, "7-all-frames")
    book.locator("#grid button").nth(3).click()
    assert label.inner_text().startswith("4/8 · frame ")


def type_question(page: Any, state: State) -> None:
    """Switch the question type, then ask in writing."""
    choose(page, "Show clips that answer", "Lesion site")
    page.get_by_text(EMPTY).wait_for()
    page.get_by_text("Type", exact=True).click()
    page.get_by_label("Type any question about this clip").fill("Where in the colon is the lesion?")
    page.get_by_role("button", name="Ask in writing").click()
    page.get_by_text("Typed, not spoken.").wait_for()
    assert answer(page)
    state(page, "8-typed")


def upload_questions(page: Any, folder: Path, state: State) -> None:
    """A wrong file is refused in words; a silent recording is no question."""
    page.get_by_text("Upload", exact=True).click()
    wrong, silent = folder / "notes.pdf", folder / "silence.wav"
    wrong.write_bytes(b"%PDF-1.7")
    silent.write_bytes(wav_bytes(np.zeros(SAMPLE_RATE, np.float32)))
    sound = page.get_by_test_id("stMain").locator('input[type="file"]').last
    sound.set_input_files(wrong)
    page.get_by_text("notes.pdf: not a sound file; upload WAV").wait_for()
    state(page, "9-wrong-file")
    page.get_by_test_id("stMain").locator('input[type="file"]').last.set_input_files(silent)
    page.get_by_text("No question heard.").wait_for()
    state(page, "10-silence")


def own_clips(page: Any, folder: Path, clip: ClipView, state: State) -> None:
    """A text file is refused; 8 images and a video become the open clip."""
    wrong, video, images = folder / "list.txt", folder / "clip.mp4", []
    wrong.write_text("no video")
    video.write_bytes(_video(clip))
    for at, frame in enumerate(clip.frames):
        images.append(folder / f"frame_{at}.jpg")
        PIL.Image.fromarray(frame).save(images[-1])
    inside = page.locator('[data-testid="stPopoverBody"]')

    def send(files: list[Path]) -> None:
        if not inside.count():
            page.get_by_role("button", name="Own clip").click()
        # After a refused file a fresh uploader takes the old one's place; for a moment both are there.
        page.wait_for_function(_ONE_UPLOADER)
        inside.locator('input[type="file"]').set_input_files(files)
        inside.get_by_role("button", name="Open this clip", disabled=False).click()

    send([wrong])
    inside.get_by_text("list.txt: neither an image nor a video; upload one video").wait_for()
    state(page, "11-wrong-clip")
    inside.get_by_role("button", name="Remove").click()
    inside.get_by_role("button", name="Open this clip", disabled=True).wait_for()
    send(images)
    page.get_by_role("heading", name="8 uploaded images").wait_for()
    inside.wait_for(state="detached")
    state(page, "12-own-images")
    send([video])
    page.get_by_role("heading", name="clip.mp4").wait_for()
    inside.wait_for(state="detached")
    state(page, "13-own-video")


def _video(clip: ClipView) -> bytes:
    """The clip's frames, four times each, as MP4."""
    stream = io.BytesIO()
    height, width = clip.frames[0].shape[:2]
    with av.open(stream, "w", format="mp4") as container:
        track = container.add_stream("mpeg4", rate=25, width=width, height=height, pix_fmt="yuv420p")
        for frame in clip.frames:
            for _ in range(4):
                container.mux(track.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(track.encode(None))
    return stream.getvalue()


def export(page: Any) -> dict[str, Any]:
    """The visit as the JSON export holds it."""
    # A page that is still being drawn replaces the file that its button points to.
    page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for()
    with page.expect_download() as waiting:
        page.get_by_test_id("stSidebar").get_by_role("button", name="JSON").click()
    found: dict[str, Any] = json.loads(Path(waiting.value.path()).read_text(encoding="utf-8"))
    return found
