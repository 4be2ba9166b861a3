"""Proof that a kill of ``speech make`` loses nothing and repeats nothing.

Children are killed with SIGKILL, at every write boundary in turn and at uniform random times; after each kill
the run is finished and the folder compared with an uninterrupted one.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from surgvivqa_audio.files import read_jsonl, sha256_file
from surgvivqa_audio.sample import Sample, make_key
from surgvivqa_audio.speech.audio import Wave
from surgvivqa_audio.speech.cache import MANIFEST, SpeechCache
from surgvivqa_audio.speech.engine import EspeakEngine, Voice
from surgvivqa_audio.speech.make import ASSIGNMENTS, make_speech
from surgvivqa_audio.taxonomy import load_taxonomy

_BOUNDARIES = ("write", "fsync", "chmod", "replace")
_VOICE = Voice("en-us")


class _Counted:
    """espeak-ng that counts begun syntheses where the parent can see them after a kill."""

    def __init__(self, counter: mmap.mmap) -> None:
        self._engine, self._counter = EspeakEngine(), counter
        self.name, self.version, self.licence = self._engine.name, self._engine.version, self._engine.licence

    def synthesize(self, text: str, voice: Voice) -> Wave:
        self._counter[:8] = struct.pack("q", _begun(self._counter) + 1)
        return self._engine.synthesize(text, voice)

    def close(self) -> None:
        self._engine.close()


def _begun(counter: mmap.mmap) -> int:
    return int(struct.unpack("q", counter[:8])[0])


def _samples(count: int) -> list[Sample]:
    taxonomy = load_taxonomy()
    rows = []
    for index, (name, kind) in enumerate(list(taxonomy.types.items())[:count]):
        answer = kind.answers[0]
        rows.append(
            Sample(
                key=make_key("in", "900-001", index, name),
                id=f"qa_{index}",
                template="in",
                video_id="900-001",
                frames=(f"900-001_{index}",),
                frame_numbers=(index,),
                question=kind.in_template,
                question_type=name,
                answer=answer.sentence,
                short_answer=answer.short,
            )
        )
    return rows


def _arm(kill_at: int) -> None:
    """Kill this process at a write boundary: odd numbers before the call, even ones after it or half way."""
    passed = 0

    def wrap(original: Callable[..., Any], halves: bool) -> Callable[..., Any]:
        def guarded(*arguments: Any, **named: Any) -> Any:
            nonlocal passed
            passed += 2
            if passed - 1 == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if passed == kill_at and halves:
                original(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*arguments, **named)
            if passed == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return guarded

    for name in _BOUNDARIES:
        setattr(os, name, wrap(getattr(os, name), halves=name == "write"))


def _child(folder: Path, count: int, counter: mmap.mmap, kill_at: int) -> int:
    """Start a run in a child; the process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        engine = _Counted(counter)
        if kill_at:
            _arm(kill_at)
        make_speech(_samples(count), folder, [_VOICE], engine=engine)
        engine.close()
        status = 0
    finally:
        os._exit(status)


def _wait(pid: int) -> bool:
    """Whether the child was killed; any other unfinished end is an error of the test itself."""
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status:
        raise RuntimeError(f"the child ended with status {status} without having been killed")
    return False


def _complete(folder: Path) -> dict[str, tuple[int, int]]:
    """Finished files and their identity on disk."""
    found = sorted((folder / "audio").glob("[!.]*.wav")) if folder.exists() else []
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def _reference(folder: Path, count: int) -> dict[str, str]:
    with EspeakEngine() as engine:
        make_speech(_samples(count), folder, [_VOICE], engine=engine)
    return {path.name: sha256_file(path) for path in (folder / "audio").glob("*.wav")}


def _faults(
    folder: Path, count: int, before: dict[str, tuple[int, int]], wanted: dict[str, str]
) -> list[str]:
    """Finish the run after a kill and list everything that is not as it should be."""
    faults = []
    with EspeakEngine() as engine:
        report = make_speech(_samples(count), folder, [_VOICE], engine=engine)
        with SpeechCache(folder, engine) as cache:
            faults += [f"differs from the manifest: {name}" for name in cache.verify()]
    after = _complete(folder)
    if report.synthesised != len(wanted) - len(before):
        faults.append(f"{report.synthesised} synthesised, {len(wanted) - len(before)} were missing")
    faults += [f"made again: {name}" for name in before if after.get(name) != before[name]]
    if {path.name: sha256_file(path) for path in (folder / "audio").iterdir()} != wanted:
        faults.append("files differ from an uninterrupted run, or litter is left")
    listed = [row["hash"] for _, row in read_jsonl(folder / MANIFEST) if row["status"] == "ok"]
    if sorted(f"{name}.wav" for name in listed) != sorted(wanted):
        faults.append("the manifest does not list every file exactly once")
    if len(list(read_jsonl(folder / ASSIGNMENTS))) != count:
        faults.append("assignments are not complete")
    return faults


def _trial(
    folder: Path, count: int, counter: mmap.mmap, wanted: dict[str, str], kill_at: int, delay_s: float
) -> tuple[bool, bool, list[str]]:
    """One killed and finished run: ``(killed, work was lost, faults)``."""
    shutil.rmtree(folder, ignore_errors=True)
    counter[:8] = struct.pack("q", 0)
    pid = _child(folder, count, counter, kill_at)
    if delay_s:
        time.sleep(delay_s)
        os.kill(pid, signal.SIGKILL)
    if not _wait(pid):
        return False, False, []
    before = _complete(folder)
    manifest = folder / MANIFEST
    listed = manifest.read_bytes().count(b"\n") if manifest.exists() else 0
    return True, _begun(counter) > listed, _faults(folder, count, before, wanted)


def kill_speech_make(
    folder: str | Path,
    *,
    random_kills: int = 50,
    boundary_questions: int = 2,
    boundary_step: int = 1,
    questions: int = 20,
    seed: int = 0,
) -> dict[str, Any]:
    """Kill ``speech make`` at every write boundary and ``random_kills`` times at random while it works.

    A random kill counts when a synthesis had begun whose file was not yet listed. ``boundary_step`` above 1
    takes a sample of the boundaries. Returns counts and ``faults``, an empty list when nothing was lost,
    repeated or half written. Uses ``fork``; call it from a process without other threads.
    """
    root, generator = Path(folder), random.Random(seed)
    counter = mmap.mmap(-1, 8)
    result: dict[str, Any] = {"boundary_kills": 0, "random_kills": 0, "random_tries": 0, "faults": []}
    wanted = _reference(root / "small", boundary_questions)
    for kill_at in range(1, 100_000, boundary_step):
        killed, _, faults = _trial(root / "trial", boundary_questions, counter, wanted, kill_at, 0.0)
        if not killed:
            break
        result["boundary_kills"] += 1
        result["faults"] += [f"boundary {kill_at}: {fault}" for fault in faults]
    started = time.monotonic()
    wanted = _reference(root / "large", questions)
    duration = time.monotonic() - started
    while result["random_kills"] < random_kills and result["random_tries"] < 20 * random_kills:
        delay_s = generator.uniform(0.01, duration)
        killed, lost, faults = _trial(root / "trial", questions, counter, wanted, 0, delay_s)
        result["random_tries"] += 1
        result["random_kills"] += int(killed and lost)
        result["faults"] += [f"random kill after {delay_s:.3f} s: {fault}" for fault in faults]
    return result
