"""The online engine: asked for explicitly, retried, never in the place of another."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import types

import numpy as np
import pytest
from typer.testing import CliRunner

from surgvivqa_audio.cli import app
from surgvivqa_audio.errors import ConfigError, MissingExtra, SpeechError
from surgvivqa_audio.speech import edge
from surgvivqa_audio.speech.audio import wav_bytes
from surgvivqa_audio.speech.edge import EdgeEngine, prosody
from surgvivqa_audio.speech.engine import Voice
from surgvivqa_audio.speech.recipe import read_recipe

ARIA = Voice("en-US-AriaNeural")
SOUND = wav_bytes(np.full(1600, 0.25, np.float32))


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "7.3.1" if name == "edge-tts" else real(name)
    )


def service(replies):
    """A service that gives these replies in turn; exceptions are raised."""
    replies = iter(replies)

    def fetch(text, voice):
        reply = next(replies)
        if isinstance(reply, Exception):
            raise reply
        return reply

    return fetch


def test_it_needs_an_explicit_yes():
    with pytest.raises(SpeechError, match="sends the question texts to Microsoft; agree with --allow-online"):
        EdgeEngine(allow_online=False)


def test_a_missing_extra_is_named(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(MissingExtra, match="tts-online"):
        EdgeEngine(allow_online=True)


def test_failures_are_repeated_with_growing_jittered_pauses():
    pauses = []
    replies = [SpeechError("503"), b"", b"not a sound", SOUND]
    engine = EdgeEngine(True, service(replies), attempts=5, pause=pauses.append)
    assert engine.synthesize("Is the scope moving?", ARIA).size == 1600
    assert len(pauses) == 3
    assert 1 <= pauses[0] <= 3
    assert 2 <= pauses[1] <= 6
    assert 4 <= pauses[2] <= 12


def test_the_last_reason_is_reported():
    engine = EdgeEngine(True, service([SpeechError("503")] * 3), attempts=3, pause=lambda seconds: None)
    with pytest.raises(SpeechError, match=r"503; 3 attempts\. Run the same command later"):
        engine.synthesize("Is the scope moving?", ARIA)


def test_an_offline_voice_is_refused_before_any_request():
    with pytest.raises(SpeechError, match="'en-us' is no online voice; write it like en-US-AriaNeural"):
        EdgeEngine(True, service([])).synthesize("Yes", Voice("en-us"))


def test_prosody_is_relative_to_the_default_voice():
    assert prosody(Voice("x", 165, 50)) == ("+0%", "+0Hz")
    assert prosody(Voice("x", 132, 45)) == ("-20%", "-5Hz")
    assert prosody(Voice("x", 198, 60)) == ("+20%", "+10Hz")


def annotations(tmp_path, question="Is the NBI light on?"):
    row = {
        "id": "qa_1",
        "video_id": "900-001",
        "frames": ["900-001_1"],
        "frame_numbers": [1],
        "question": question,
        "question_type": "nbi_status",
        "answer": "No, WL light is on instead.",
        "short_answer": "no",
    }
    path = tmp_path / "in_template.jsonl"
    path.write_text(json.dumps(row))
    return path


def test_the_seed_recipe_speaks_with_its_voice_only_after_agreement(tmp_path, monkeypatch, request):
    recipe = request.config.rootpath / "recipes" / "speech-seed.yaml"
    assert read_recipe(recipe).voices == ("en-US-AriaNeural",)
    arguments = ["speech", "make", str(annotations(tmp_path)), str(tmp_path / "s"), "--recipe", str(recipe)]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, SpeechError)
    assert not (tmp_path / "s").exists()
    monkeypatch.setattr(edge.EdgeEngine.__init__, "__defaults__", (service([SOUND]), 1, None))
    done = CliRunner().invoke(app, [*arguments, "--allow-online", "--json"])
    assert done.exit_code == 0, done.output
    (row,) = [json.loads(line) for line in (tmp_path / "s" / "manifest.jsonl").read_text().splitlines()]
    assert (row["engine"], row["version"], row["voice"]) == ("edge-tts", "7.3.1", "en-US-AriaNeural")
    assert "Microsoft" in row["licence"]


def test_a_recipe_with_an_unknown_key_is_refused(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("engine: espeak\nvoice: [en-us]\n")
    with pytest.raises(ConfigError, match=r"r\.yaml: key 'voice'"):
        read_recipe(path)


def test_one_request_joins_the_sound_and_translates_errors(monkeypatch):
    class Refused(Exception):
        pass

    class Communicate:
        def __init__(self, text, voice, rate, pitch):
            self.asked = (text, voice, rate, pitch)

        async def stream(self):
            if self.asked[0] == "refuse":
                raise Refused("503")
            yield {"type": "audio", "data": b"ab"}
            yield {"type": "SentenceBoundary"}
            yield {"type": "audio", "data": repr(self.asked[1:]).encode()}

    exceptions = types.SimpleNamespace(EdgeTTSException=Refused)
    fake = types.SimpleNamespace(Communicate=Communicate, exceptions=exceptions)
    monkeypatch.setitem(sys.modules, "edge_tts", fake)
    monkeypatch.setitem(sys.modules, "aiohttp", types.SimpleNamespace(ClientError=Refused))
    assert edge.fetch_online("yes", ARIA) == b"ab('en-US-AriaNeural', '+0%', '+0Hz')"
    with pytest.raises(SpeechError, match="edge-tts: Refused 503"):
        edge.fetch_online("refuse", ARIA)
