"""SIGKILL of the downloader and of the frame cache: nothing is lost, nothing half written, nothing redone.

A child is killed at every write boundary (before and after each sync and rename, and between blocks of
a transfer) and at uniformly random times. ``kills(count)`` runs any number of random ones.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from boundary import Boundary
from surgvivqa_audio.data.fetch import Fetcher
from surgvivqa_audio.data.framecache import FrameCache
from surgvivqa_audio.data.images import load_image
from surgvivqa_audio.data.plan import VideoPlan
from surgvivqa_audio.data.stores import FolderStore
from surgvivqa_audio.data.transfer import Source, Transfer
from surgvivqa_audio.sample import Sample

pytestmark = pytest.mark.integration

VIDEO = "002-001"
NUMBERS = tuple(range(3, 32, 4))
PLAN = VideoPlan(VIDEO, NUMBERS, 20)


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    PillowImage.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


FRAMES = {number: jpeg(number) for number in range(1, 36, 2)}


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for number, content in FRAMES.items():
            info = tarfile.TarInfo(f"{VIDEO}_frames/{VIDEO}_{number}.jpg")
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Server:
    """Serves one archive in small blocks and counts the bytes that left."""

    def __init__(self) -> None:
        self.content = archive()
        self.sent = 0
        self.starts: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
                outer.starts.append(start)
                total = len(outer.content)
                self.send_response(206 if wanted else 200)
                if wanted:
                    self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
                self.send_header("Content-Length", str(total - start))
                self.end_headers()
                try:
                    for place in range(start, total, 2048):
                        outer.sent += self.wfile.write(outer.content[place : place + 2048])
                except OSError:
                    self.close_connection = True  # the client was killed

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def source(self) -> Source:
        url = f"http://127.0.0.1:{self.http.server_address[1]}/x"
        md5 = hashlib.md5(self.content).hexdigest()
        return Source(f"{VIDEO}_frames.tar.gz", url, len(self.content), md5)

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.close()


def run_child(work: Callable[[Callable[[], None]], None], boundary: int | None, delay: float | None) -> bool:
    """Run ``work`` in a child and kill it at a boundary or after a delay; whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            mark = Boundary(-1 if boundary is None else boundary)
            if boundary is not None:
                mark.install()
            work(mark.step)
        except BaseException:  # noqa: BLE001 - the child must never return into the test runner
            os._exit(1)
        os._exit(0)
    timer = threading.Timer(delay, os.kill, (child, signal.SIGKILL)) if delay is not None else None
    if timer is not None:
        timer.start()
    _, status = os.waitpid(child, 0)
    if timer is not None:
        timer.cancel()
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed"
    return os.WIFSIGNALED(status)


def fetch_work(folder: Path, server: Server, keep: bool) -> Callable[[Callable[[], None]], None]:
    def work(step: Callable[[], None]) -> None:
        transfer = Transfer(report=lambda _: step(), timeout=30)
        Fetcher(folder, "frames", transfer, keep_archives=keep).fetch(PLAN, server.source)

    return work


def check_fetched(folder: Path, server: Server, keep: bool) -> bool:
    """After a kill: whole frames only; then finish. Returns whether the kill had lost work."""
    frames = folder / "frames" / VIDEO
    present = {path.name: path.stat().st_ino for path in frames.glob("*.jpg")} if frames.is_dir() else {}
    for name in present:
        number = int(name.removesuffix(".jpg").rpartition("_")[2])
        assert (frames / name).read_bytes() == FRAMES[number]
    part = folder / "archives" / f"{VIDEO}_frames.tar.gz.part"
    had = part.stat().st_size if part.is_file() else 0
    whole = (folder / "archives" / f"{VIDEO}_frames.tar.gz").is_file()
    server.starts.clear()
    done = Fetcher(folder, "frames", Transfer(timeout=30), keep_archives=keep).fetch(PLAN, server.source)
    assert done.written == len(NUMBERS) - len(present)
    files = {path.name: path for path in frames.glob("*.jpg")}
    assert set(files) == {f"{VIDEO}_{number}.jpg" for number in NUMBERS}
    assert list(frames.glob(".*.tmp")) == []
    assert all(files[name].stat().st_ino == inode for name, inode in present.items())
    for number in NUMBERS:
        assert files[f"{VIDEO}_{number}.jpg"].read_bytes() == FRAMES[number]
    if keep and len(present) < len(NUMBERS):
        # Bytes of a kept archive are asked for once: the transfer goes on where the file ends. The dead
        # child's own request (from 0) may still wait in the server's queue and be seen only now.
        ours = [start for start in server.starts if start or not had]
        complete = whole or had == len(server.content)
        assert set(ours) <= {had}, (had, server.starts)
        assert complete or ours, (had, server.starts)
    return len(present) < len(NUMBERS)


def samples() -> list[Sample]:
    names = tuple(f"{VIDEO}_{number}" for number in NUMBERS)
    return [
        Sample(
            key=f"in/{VIDEO}/3/nbi_status",
            id="q",
            template="in",
            video_id=VIDEO,
            frames=names,
            frame_numbers=NUMBERS,
            question="?",
            question_type="nbi_status",
            answer="",
            short_answer="no",
        )
    ]


def cache_work(frames: Path, folder: Path) -> Callable[[Callable[[], None]], None]:
    def work(step: Callable[[], None]) -> None:
        FrameCache(FolderStore(frames), folder, 32).build(samples(), lambda done, total: step())

    return work


def check_cache(frames: Path, folder: Path, expected: dict[str, Any]) -> bool:
    present = {path: path.stat().st_ino for path in folder.glob(f"{VIDEO}/*.jpg")}
    for path in present:
        load_image(path.read_bytes(), str(path))
    finished = (folder / "manifest.json").is_file()
    cache = FrameCache(FolderStore(frames), folder, 32)
    assert cache.build(samples()) == expected
    assert cache.made == len(NUMBERS) - len(present)
    assert list(folder.rglob(".*.tmp")) == []
    assert all(path.stat().st_ino == inode for path, inode in present.items())
    return not finished


def write_frames(folder: Path) -> Path:
    (folder / VIDEO).mkdir(parents=True)
    for number, content in FRAMES.items():
        (folder / VIDEO / f"{VIDEO}_{number}.jpg").write_bytes(content)
    return folder


def kills(count: int, start: int = 0, boundaries: int | None = None) -> dict[str, Any]:
    """Kill streamed fetch, kept fetch and cache at write boundaries and ``count`` random times each.

    Args:
        boundaries: the first so many boundaries of each; None for all of them.

    Returns:
        Kills, and how many of them lost work, by kind of work; raises AssertionError on a violation.
    """
    report: dict[str, Any] = {}
    generator = random.Random(start)
    with tempfile.TemporaryDirectory() as name, serving() as server:
        root = Path(name)
        frames = write_frames(root / "source")
        expected = FrameCache(FolderStore(frames), root / "expected", 32).build(samples())
        kinds: dict[str, tuple[Callable[[Path], Any], Callable[[Path], bool]]] = {
            "fetch_streamed": (
                lambda folder: fetch_work(folder, server, False),
                lambda folder: check_fetched(folder, server, False),
            ),
            "fetch_kept": (
                lambda folder: fetch_work(folder, server, True),
                lambda folder: check_fetched(folder, server, True),
            ),
            "cache": (
                lambda folder: cache_work(frames, folder),
                lambda folder: check_cache(frames, folder, expected),
            ),
        }
        for kind, (work, check) in kinds.items():
            report[kind] = _rounds(root / kind, work, check, count, generator, boundaries)
    return report


def _rounds(
    root: Path,
    work: Callable[[Path], Any],
    check: Callable[[Path], bool],
    count: int,
    generator: random.Random,
    boundaries: int | None,
) -> dict[str, int]:
    tally = {"boundaries": 0, "random": 0, "killed": 0, "lost_work": 0}
    place = 0
    while boundaries is None or place < boundaries:
        folder = root / f"b{place}"
        killed = run_child(work(folder), place, None)
        lost = check(folder)
        tally["boundaries"] += 1
        tally["killed"] += killed
        tally["lost_work"] += killed and lost
        if not killed:
            break
        place += 1
    for turn in range(count):
        folder = root / f"r{turn}"
        killed = run_child(work(folder), None, generator.uniform(0, 0.12))
        tally["random"] += 1
        tally["killed"] += killed
        tally["lost_work"] += killed and check(folder)
    return tally


def test_kills_at_write_boundaries_and_random_times() -> None:
    report = kills(count=3, boundaries=12)
    for kind, tally in report.items():
        assert tally["lost_work"] >= 10, (kind, tally)


if __name__ == "__main__":
    # python tests/integration/test_data_kill.py 50
    sys.stdout.write(json.dumps(kills(int(sys.argv[1])), indent=2) + "\n")
