from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage
from typer.testing import CliRunner

from surgvivqa_audio.commands.data import app
from surgvivqa_audio.data.addresses import check_url
from surgvivqa_audio.data.fetch import Fetcher, archive_of, read_listing
from surgvivqa_audio.data.plan import VideoPlan
from surgvivqa_audio.data.transfer import Source, Transfer
from surgvivqa_audio.errors import FetchError

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "real-colon-vqa"


@dataclass
class Site:
    """A server on this machine whose misbehaviour is chosen per path."""

    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # bytes per connection before it is dropped
    ranges: bool = True
    stalls: int = 0  # connections that send half and then nothing
    busy: list[int] = field(default_factory=list)  # status codes to answer first
    extra: bytes = b""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    url: str = ""


def handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            site.requests.append((self.path, wanted))
            self.close_connection = True
            if site.busy:
                self.send_response(site.busy.pop(0))
                self.send_header("Retry-After", "7")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            name = self.path.partition("?")[0]
            if name in site.redirects:
                self.send_response(302)
                self.send_header("Location", site.redirects[name])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if name not in site.files:
                self.send_error(404)
                return
            self._send(site.files[name] + site.extra, wanted)

        def _send(self, content: bytes, wanted: str | None) -> None:
            total, start = len(content), 0
            if wanted and site.ranges:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= total:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{total}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            else:
                self.send_response(200)
            body = content[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if site.stalls:
                site.stalls -= 1
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                site.release.wait(20)
                return
            self.wfile.write(body if site.cut_after is None else body[: site.cut_after])

    return Handler


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(made))
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


def transfer(waits: list[float] | None = None, **changes: Any) -> Transfer:
    kept = waits if waits is not None else []
    return Transfer(**{"wait": kept.append, "timeout": 5.0, **changes})


CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
MD5 = hashlib.md5(CONTENT).hexdigest()


def source(site: Site, **changes: Any) -> Source:
    site.files.setdefault("/x", CONTENT)
    return Source(**{"name": "x", "url": site.url + "/x", "size": len(CONTENT), "md5": MD5, **changes})


@pytest.mark.parametrize("ranges", [True, False])
def test_broken_connections_are_continued(site: Site, tmp_path: Path, ranges: bool) -> None:
    # Without ranges every connection restarts at 0, so each has to reach further than the last.
    site.cut_after, site.ranges = (70_000, True) if ranges else (None, False)
    if not ranges:
        site.stalls = 1
    transfer(timeout=0.3 if not ranges else 5.0).download(source(site), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT
    starts = [int(wanted.removeprefix("bytes=")[:-1]) for _, wanted in site.requests if wanted]
    assert starts == sorted(starts)
    assert len(site.requests) == (5 if ranges else 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]


def test_a_later_process_resumes_in_mid_file(site: Site, tmp_path: Path) -> None:
    site.cut_after = 100_000
    with pytest.raises(FetchError, match="gave up after 1 failures at byte 100000"):
        transfer(retries=0).download(source(site), tmp_path / "x")
    assert (tmp_path / "x.part").stat().st_size == 100_000
    site.cut_after = None
    site.requests.clear()
    transfer().download(source(site), tmp_path / "x")
    assert site.requests == [("/x", "bytes=100000-")]
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_a_part_of_another_file_is_not_continued(site: Site, tmp_path: Path) -> None:
    site.cut_after = 100_000
    with pytest.raises(FetchError):
        transfer(retries=0).download(source(site), tmp_path / "x")
    site.cut_after, site.files["/x"] = None, CONTENT[::-1]
    other = source(site, md5=hashlib.md5(CONTENT[::-1]).hexdigest())
    transfer().download(other, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT[::-1]


def test_a_stalled_connection_times_out_and_is_continued(site: Site, tmp_path: Path) -> None:
    site.stalls = 1
    transfer(timeout=0.3).download(source(site), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert len(site.requests) == 2


def test_busy_servers_are_asked_again_when_they_say(site: Site, tmp_path: Path) -> None:
    site.busy = [503, 429]
    waits: list[float] = []
    transfer(waits).download(source(site), tmp_path / "x")
    assert waits == [7.0, 7.0]


def test_pauses_grow_and_failures_in_a_row_are_counted(site: Site) -> None:
    site.cut_after = 0
    waits: list[float] = []
    with pytest.raises(FetchError, match="gave up after 5 failures at byte 0"):
        transfer(waits, retries=4).fetch(source(site))
    assert len(waits) == 4
    assert all(0.5 * 2**n <= wait <= 2**n for n, wait in enumerate(waits))


def test_wrong_bytes_leave_nothing(site: Site, tmp_path: Path) -> None:
    for wrong in ({"md5": "0" * 32}, {"sha256": "0" * 64}):
        with pytest.raises(FetchError, match="not the announced file"):
            transfer().download(source(site, **wrong), tmp_path / "x")
        assert list(tmp_path.iterdir()) == []
    site.extra = b"more"
    with pytest.raises(FetchError, match="300004 bytes on the server, 300000 were announced"):
        transfer().download(source(site), tmp_path / "x")
    site.extra = b""
    with pytest.raises(FetchError, match="HTTP 404"):
        transfer().fetch(Source("y", site.url + "/y"))


def test_unknown_size_and_complete_part(site: Site, tmp_path: Path) -> None:
    unsized = source(site, size=None)
    transfer().download(unsized, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT
    (tmp_path / "x").rename(tmp_path / "x.part")
    note = {"url": unsized.url, "size": None, "md5": MD5, "sha256": None}
    (tmp_path / "x.part.json").write_text(json.dumps(note))
    transfer().download(unsized, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_the_rate_is_held(site: Site) -> None:
    waits: list[float] = []
    transfer(waits, rate=100_000.0, clock=lambda: 0.0).fetch(source(site))
    # With a clock that stands still, each wait is the whole time that the bytes so far should have taken.
    assert waits[-1] == pytest.approx(3.0)
    assert waits == sorted(waits)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/x",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "//x",
        "https://",
        "x",
        "http://[::1",
    ],
)
def test_only_https_or_this_machine(url: str) -> None:
    with pytest.raises(FetchError):
        check_url(url)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://example.org/x", "ftp://example.org/x"])
def test_redirects_are_held_to_the_same_rule(site: Site, target: str) -> None:
    site.redirects["/x"] = target
    with pytest.raises(FetchError, match=r"only https|HTTP 302"):
        transfer().fetch(Source("x", site.url + "/x"))


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    PillowImage.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


VIDEO = "002-001"
FRAMES = {number: jpeg(number) for number in range(1, 61)}


def publish(site: Site, corrupt: bool = False) -> dict[str, Source]:
    xml = b"<annotation><size><width>9</width><height>9</height></size></annotation>"
    packed = {
        f"{VIDEO}_frames.tar.gz": archive({f"{VIDEO}_frames/{VIDEO}_{n}.jpg": c for n, c in FRAMES.items()}),
        f"{VIDEO}_annotations.tar.gz": archive({f"{VIDEO}_annotations/{VIDEO}_{n}.xml": xml for n in FRAMES}),
    }
    entries = []
    for name, content in packed.items():
        site.files[f"/files/{name}"] = content[:-300] + bytes(300) if corrupt else content
        entries.append(
            {
                "name": name,
                "size": len(content),
                "download_url": f"{site.url}/go/{name}",
                "computed_md5": hashlib.md5(content).hexdigest(),
            }
        )
        site.redirects[f"/go/{name}"] = f"{site.url}/files/{name}"
    site.files["/listing"] = json.dumps(entries).encode()
    return read_listing(transfer(), site.url + "/listing")


PLAN = VideoPlan(VIDEO, tuple(range(3, 32, 4)), 60)


@pytest.mark.parametrize("keep", [False, True])
def test_only_needed_frames_are_kept(site: Site, tmp_path: Path, keep: bool) -> None:
    listing = publish(site)
    site.cut_after = 40_000
    fetcher = Fetcher(tmp_path, "frames", transfer(), keep_archives=keep)
    done = fetcher.fetch(PLAN, archive_of("frames", VIDEO, listing))
    assert (done.written, done.present, done.missing) == (8, 0, [])
    assert done.transferred == len(site.files[f"/files/{VIDEO}_frames.tar.gz"])
    files = sorted((tmp_path / "frames" / VIDEO).glob("[!.]*"))
    assert [path.name for path in files] == sorted(f"{VIDEO}_{number}.jpg" for number in PLAN.numbers)
    assert (tmp_path / "frames" / VIDEO / f"{VIDEO}_7.jpg").read_bytes() == FRAMES[7]
    assert (tmp_path / "archives").is_dir() == keep
    site.requests.clear()
    assert fetcher.fetch(PLAN, archive_of("frames", VIDEO, listing)).written == 0
    assert site.requests == []


def test_more_frames_later_come_from_the_kept_archive(site: Site, tmp_path: Path) -> None:
    listing = publish(site)
    fetcher = Fetcher(tmp_path, "frames", transfer(), keep_archives=True)
    fetcher.fetch(PLAN, archive_of("frames", VIDEO, listing))
    site.requests.clear()
    more = VideoPlan(VIDEO, tuple(range(3, 40, 2)), 60)
    done = fetcher.fetch(more, archive_of("frames", VIDEO, listing))
    assert (done.written, done.present, done.transferred) == (11, 8, 0)
    assert site.requests == []


def test_boxes_are_fetched_from_their_archive(site: Site, tmp_path: Path) -> None:
    listing = publish(site)
    Fetcher(tmp_path, "boxes", transfer()).fetch(PLAN, archive_of("boxes", VIDEO, listing))
    assert len(list((tmp_path / "boxes" / f"{VIDEO}_annotations").glob("[!.]*"))) == 8


def test_a_damaged_archive_leaves_no_frames(site: Site, tmp_path: Path) -> None:
    listing = publish(site, corrupt=True)
    with pytest.raises(FetchError, match=r"damaged archive|not the announced file"):
        Fetcher(tmp_path, "frames", transfer()).fetch(PLAN, archive_of("frames", VIDEO, listing))
    assert list((tmp_path / "frames").rglob("*.jpg")) == []


def test_hostile_members_are_not_written(site: Site, tmp_path: Path) -> None:
    content = archive(
        {"../../002-001_7.png.jpg": FRAMES[1], "/etc/002-002_3.jpg": FRAMES[1], "x/002-001_3.jpg": b"no"}
    )
    site.files["/x"] = content
    hostile = Source("x.tar.gz", site.url + "/x", len(content), hashlib.md5(content).hexdigest())
    data = tmp_path / "data"
    with pytest.raises(FetchError, match="not a complete JPEG"):
        Fetcher(data, "frames", transfer()).fetch(VideoPlan(VIDEO, (3, 7), 60), hostile)
    assert list(tmp_path.rglob("*.jpg")) == []


def test_a_frame_that_the_archive_lacks_is_an_error(site: Site, tmp_path: Path) -> None:
    listing = publish(site)
    plan = VideoPlan(VIDEO, (59, 60, 61, 62), None)
    with pytest.raises(FetchError, match=r"has no frame 61, 62 \(2 missing\)"):
        Fetcher(tmp_path, "frames", transfer()).fetch(plan, archive_of("frames", VIDEO, listing))
    with pytest.raises(FetchError, match="no archive of frames for 009-009"):
        archive_of("frames", "009-009", listing)


@pytest.mark.parametrize(
    "entry",
    [
        "x",
        {},
        {"name": "../x", "size": 1, "download_url": "https://a/b"},
        {"name": "x", "size": "1", "download_url": "https://a/b"},
        {"name": "x", "size": 1, "download_url": "http://example.org"},
        {"name": "x", "size": 1, "download_url": "https://a/b", "computed_md5": "zz"},
    ],
)
def test_hostile_listings_are_refused(site: Site, entry: Any) -> None:
    site.files["/listing"] = json.dumps([entry]).encode()
    with pytest.raises(FetchError):
        read_listing(transfer(), site.url + "/listing")
    site.files["/listing"] = b"<html>"
    with pytest.raises(FetchError, match="not a file listing"):
        read_listing(transfer(), site.url + "/listing")


def data_folder(tmp_path: Path) -> Path:
    row = {
        "id": "qa_1",
        "video_id": VIDEO,
        "frames": [f"{VIDEO}_{number}" for number in PLAN.numbers],
        "frame_numbers": list(PLAN.numbers),
        "question": "Is the NBI light on?",
        "question_type": "nbi_status",
        "answer": "No, WL light is on instead.",
        "short_answer": "no",
    }
    data = tmp_path / "DATA"
    data.mkdir()
    (data / "in_template.jsonl").write_text(json.dumps(row))
    (data / "video_info.csv").write_text(
        f"unique_video_name,endoscope_brand,fps,num_frames\n{VIDEO},Olympus,25,60\n"
    )
    return data


def test_commands_fetch_and_verify(site: Site, tmp_path: Path) -> None:
    publish(site)
    data = data_folder(tmp_path)
    before = CliRunner().invoke(app, ["verify", str(data), "--no-speech"])
    assert before.exit_code == 1
    assert "missing frames: 3, 7, 11, 15, 19 ..." in before.output
    options = ["--listing", site.url + "/listing", "--json", str(tmp_path / "plan.json")]
    run = CliRunner().invoke(app, ["fetch", "frames", "--videos", VIDEO, str(data), *options])
    assert run.exit_code == 0, run.output
    assert run.output.startswith("to fetch: 8 frames from 1 archives; ")
    assert json.loads((tmp_path / "plan.json").read_text())["results"][0]["written"] == 8
    assert CliRunner().invoke(app, ["verify", str(data), "--no-speech", "--decode"]).exit_code == 0
    spoken = CliRunner().invoke(app, ["verify", str(data)])
    assert spoken.exit_code == 1
    assert "no recording of: in/002-001/3/nbi_status" in spoken.output
    old = data / "speech" / "in_002-001" / "qa_1.mp3"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"x")
    assert CliRunner().invoke(app, ["verify", str(data)]).exit_code == 0
    (data / "frames" / VIDEO / f"{VIDEO}_7.jpg").write_bytes(FRAMES[7][:200])
    broken = CliRunner().invoke(app, ["verify", str(data), "--decode"])
    assert broken.exit_code == 1
    assert "1 damaged" in broken.output


def test_sixteen_frames_extend_the_plan(site: Site, tmp_path: Path) -> None:
    publish(site)
    data = data_folder(tmp_path)
    run = CliRunner().invoke(
        app, ["fetch", "frames", str(data), "--frames", "16", "--listing", site.url + "/listing"]
    )
    assert run.exit_code == 0, run.output
    assert len(list((data / "frames" / VIDEO).glob("[!.]*"))) == 16


def test_annotations_from_a_folder_must_be_the_pinned_version(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["fetch", "annotations", str(tmp_path / "D")])
    assert "--source is needed" in str(run.exception)
    source_folder = data_folder(tmp_path)
    run = CliRunner().invoke(
        app, ["fetch", "annotations", str(tmp_path / "D"), "--source", str(source_folder)]
    )
    assert "the pinned version has c31b799d121b2de0" in str(run.exception)
    assert not (tmp_path / "D" / "in_template.jsonl").exists()


def test_annotations_from_a_server_must_be_the_pinned_version(site: Site, tmp_path: Path) -> None:
    site.files["/a/in_template.jsonl"] = b"{}"
    run = CliRunner().invoke(app, ["fetch", "annotations", str(tmp_path / "D"), "--source", site.url + "/a"])
    assert "in_template.jsonl: SHA-256" in str(run.exception)
    assert not (tmp_path / "D" / "in_template.jsonl").exists()


@pytest.mark.data
@pytest.mark.skipif(not (REAL / "in_template.jsonl").is_file(), reason=f"{REAL} is absent")
def test_the_published_out_file_is_made_from_the_in_file(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["fetch", "annotations", str(tmp_path / "D"), "--source", str(REAL)])
    assert run.exit_code == 0, run.output
    content = (tmp_path / "D" / "out_template.jsonl").read_bytes()
    assert hashlib.sha256(content).hexdigest().startswith("ab90374a9b003e06")
    plan = tmp_path / "plan.json"
    run = CliRunner().invoke(app, ["fetch", "frames", str(tmp_path / "D"), "--dry-run", "--json", str(plan)])
    assert run.exit_code == 0, run.output
    assert run.output.startswith(
        "to fetch: 34560 frames from 6 archives (sizes estimated); 65.5 GB to transfer"
    )
    assert json.loads(plan.read_text())["archives"]["002-006"] == "002-006_frames.tar.gz"
