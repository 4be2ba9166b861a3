"""`make reproduce` on ColonSim packed as REAL-Colon archives behind a local server, with the nano model."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from surgvivqa_audio.colonsim import make_dataset
from surgvivqa_audio.files import read_jsonl

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
STAGES = [
    "fetch",
    "verify",
    "speech-in",
    "speech-out",
    "split",
    "train",
    "eval",
    "test",
    "baselines",
    "report",
]
SMALL = (
    "model=nano", "threads=1", "prompt.max_side=112", "tune.weights=fp32", "tune.lora_rank=4",
    "trainer.optim=adamw_torch", "trainer.bf16=false", "trainer.dataloader_num_workers=0",
    "fast.checkpointing=never",
    "trainer.max_steps=2", "trainer.eval_steps=2", "trainer.save_steps=2", "trainer.logging_steps=1",
)  # fmt: skip


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, list[str]]]:
    """A DATA folder without frames, the address of a listing with their archives, and the procedures."""
    data, served = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("served")
    make_dataset(data, 2, 2, 11, 112)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    url = f"http://127.0.0.1:{server.server_address[1]}"
    entries = []
    videos = sorted(path.name for path in (data / "frames").iterdir())
    for video in videos:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
            for frame in sorted((data / "frames" / video).iterdir()):
                packed.add(frame, f"{video}_frames/{frame.name}")
        content = buffer.getvalue()
        name = f"{video}_frames.tar.gz"
        (served / name).write_bytes(content)
        entry = {"name": name, "size": len(content), "download_url": f"{url}/{name}"}
        entries.append({**entry, "computed_md5": hashlib.md5(content).hexdigest()})
    (served / "listing").write_text(json.dumps(entries))
    shutil.rmtree(data / "frames")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield data, f"{url}/listing", videos
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_whole_road_runs_and_continues(site: tuple[Path, str, list[str]], tmp_path: Path) -> None:
    data, listing, videos = site
    sets = " ".join(f"--set {setting}" for setting in (*SMALL, f"fast.cache={tmp_path}/features"))
    arguments = f"--out {tmp_path}/run --videos {videos[0]} --held-out {videos[1]} --listing {listing} {sets}"
    inherited = ("MAKE", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(inherited)}

    def reproduce() -> list[str]:
        # The environment that runs this test is the one to use: make must not set up another.
        venv = Path(sys.prefix)
        command = ["make", "-s", f"VENV={venv}", "-o", f"{venv}/.ready-cpu", "-o", f"{venv}/.ready-cuda"]
        command += ["reproduce", "RECIPE=qlora-1xh200", f"DATA={data}", f"ARGS={arguments}"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        lines = [line for line in done.stdout.splitlines() if line.partition("/")[0].isdigit()]
        assert [line.split()[1].rstrip(":") for line in lines] == STAGES
        return [line.split(" ", 1)[1].split(": ", 1)[1] for line in lines]

    first = reproduce()
    assert all(said.startswith("surgvivqa ") for said in first)
    run = tmp_path / "run"
    assert {path.stem for path in (run / "stages").iterdir()} == set(STAGES)
    for part in ("eval", "test"):
        rows = [row for _, row in read_jsonl(run / "predictions" / f"{part}.jsonl")]
        asked = [row for _, row in read_jsonl(run / "splits" / f"{part}.jsonl")]
        assert sorted(row["key"] for row in rows) == sorted(row["key"] for row in asked)
        assert [row["error"] for row in rows] == [None] * len(rows)
    assert {row["key"].split("/")[1] for row in rows} == {videos[1]}
    assert (run / "predictions" / "text-zeroshot-out.jsonl").is_file()
    report = (run / "report" / "report.html").read_text()
    assert "Reproduction of qlora-1xh200" in report
    assert "ColonSim" in report
    # Again: nothing is left to do. Without the note of a stage, it and what follows are done once more.
    assert reproduce() == ["already done"] * len(STAGES)
    (run / "stages" / "report.json").unlink()
    again = reproduce()
    assert again[:-1] == ["already done"] * (len(STAGES) - 1)
    assert again[-1].startswith("surgvivqa eval report")
