"""Screenshots of every state and a film of the walk for the documentation.

``python tests/browser/record.py`` writes into docs/screenshots; it ends non-zero when an answer is wrong or
the film is longer than two minutes or larger than 8 MB.
"""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import av
import demo_walk as walk
import PIL.Image

from surgvivqa_audio.apps.cases import SimCases
from surgvivqa_audio.files import write_bytes
from surgvivqa_audio.taxonomy import load_taxonomy

OUT = Path(__file__).parents[2] / "docs" / "screenshots"
RATE = 8  # frames per second of the film
LONGEST_STILL_S = 1.6  # waiting for a slow machine is cut down to this
MAX_SECONDS, MAX_BYTES = 120.0, 8 << 20
COLOURS = 256  # of a screenshot: half the bytes, no difference to see


class Film:
    """Collects Chromium's screencast; each picture keeps the time at which it appeared."""

    def __init__(self, page: Any) -> None:
        self.pictures: list[tuple[float, bytes]] = []
        self._session = page.context.new_cdp_session(page)
        self._session.on("Page.screencastFrame", self._keep)
        self._session.send(
            "Page.startScreencast",
            {"format": "jpeg", "quality": 90, "maxWidth": 1280, "maxHeight": 900, "everyNthFrame": 1},
        )

    def _keep(self, event: dict[str, Any]) -> None:
        self.pictures.append((event["metadata"]["timestamp"], base64.b64decode(event["data"])))
        self._session.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    def stop(self) -> None:
        """End the screencast."""
        self._session.send("Page.stopScreencast")

    def encode(self) -> tuple[bytes, float]:
        """H.264 in MP4, and its length in seconds."""
        stream, ticks = io.BytesIO(), 0
        with av.open(stream, "w", format="mp4") as container:
            track = container.add_stream("libx264", rate=RATE, width=1280, height=900, pix_fmt="yuv420p")
            track.options = {"crf": "26", "preset": "medium", "tune": "stillimage"}
            following = [time for time, _ in self.pictures[1:]] + [self.pictures[-1][0] + LONGEST_STILL_S]
            shown = 0.0
            for (time, content), until in zip(self.pictures, following, strict=True):
                shown += min(until - time, LONGEST_STILL_S)
                if ticks >= shown * RATE:
                    continue  # gone before the film's next picture
                picture = PIL.Image.open(io.BytesIO(content)).convert("RGB").resize((1280, 900))
                frame = av.VideoFrame.from_image(picture)
                while ticks < shown * RATE:
                    frame.pts = ticks
                    container.mux(track.encode(frame))
                    ticks += 1
            container.mux(track.encode(None))
        return stream.getvalue(), ticks / RATE


def shot(page: Any, name: str) -> None:
    """Wait until nothing moves, then keep the page as PNG; the pause also gives the film time to read."""
    page.wait_for_timeout(1500)
    picture = PIL.Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(COLOURS)
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    write_bytes(OUT / f"{name}.png", stream.getvalue())
    sys.stderr.write(f"{name}\n")


def walk_through(page: Any, url: str, seconds: float, folder: Path) -> bool:
    """Every state in turn; whether the spoken question was answered rightly."""
    case = walk.cases()[0]
    walk.arrive(page, url, shot)
    walk.open_case(page, case)
    shot(page, "2-clip")
    walk.record(page, seconds, shot)
    right = walk.answer(page) == load_taxonomy().types[walk.ASKED].answer(case.truth[walk.ASKED]).sentence
    if right:
        walk.confirm(page)
    shot(page, "4-spoken-answer")
    walk.use_flipbook(page, shot)
    walk.type_question(page, shot)
    walk.upload_questions(page, folder, shot)
    walk.own_clips(page, folder, SimCases().load(case), shot)
    return right


def ways_to_look(browser: Any, url: str) -> None:
    """The same page dark, and on a tablet held upright and across."""
    for name, options in (
        ("14-dark", {"color_scheme": "dark"}),
        ("15-tablet-upright", {"viewport": {"width": 820, "height": 1180}, "has_touch": True}),
        ("16-tablet-across", {"viewport": {"width": 1180, "height": 820}, "has_touch": True}),
    ):
        with walk.visitor(browser, **options) as page:
            walk.arrive(page, url, lambda page, name: None)
            page.get_by_text("Built-in voice", exact=True).click()
            page.get_by_role("button", name="Speak and ask").click()
            page.locator(".sv-answer .say").wait_for()
            shot(page, name)


def main() -> int:
    """Record, check, write."""
    lacks = walk.missing()
    if lacks:
        sys.stderr.write("the recording lacks: " + "; ".join(lacks) + "\n")
        return 1
    wave = walk.spoken()
    with tempfile.TemporaryDirectory(prefix="surgvivqa-record-") as name:
        folder = Path(name)
        with walk.browser(walk.microphone_file(folder, wave)) as browser, walk.serving() as url:
            with walk.visitor(browser) as page:
                film = Film(page)
                seconds = walk.LEAD_S + wave.size / walk.SAMPLE_RATE + 1.0
                right = walk_through(page, url, seconds, folder)
                film.stop()
            ways_to_look(browser, url)
    content, length = film.encode()
    fits = length <= MAX_SECONDS and len(content) <= MAX_BYTES
    if fits:
        write_bytes(OUT / "walk-through.mp4", content)
    verdict = "right" if right else "WRONG"
    sys.stderr.write(f"film: {length:.0f} s, {len(content) / 1e6:.1f} MB; spoken answer {verdict}\n")
    return 0 if right and fits else 1


if __name__ == "__main__":
    sys.exit(main())
