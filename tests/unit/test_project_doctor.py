"""`surgvivqa doctor`: verdicts on described machines, and one run on this one."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest
from typer.testing import CliRunner

from surgvivqa_audio.cli import app
from surgvivqa_audio.commands import machine
from surgvivqa_audio.commands.doctor import lines, nano_verdict, seed_verdict

CARD = {"name": "RTX 4090", "memory_gib": 23.5}


def described(**changes: Any) -> dict[str, Any]:
    """A machine with two 24 GB cards and everything installed, then changed."""
    report: dict[str, Any] = {
        "python": {"version": "3.12.4", "executable": "/usr/bin/python3", "ok": True},
        "cpu": {"cores": 16, "omp_num_threads": None},
        "memory_gib": 64.0,
        "disk": {"here_free_gib": 200.0, "model_cache": "/cache", "model_cache_free_gib": 200.0},
        "torch": {
            "version": "2.13.0",
            "problem": None,
            "cuda_build": "13.0",
            "threads": 16,
            "gpus": [CARD, CARD],
        },
        "driver": {"version": "580.1", "gpus": [CARD, CARD], "problem": None},
        "bitsandbytes": {"usable": True, "device": "cuda", "problem": None},
        "speech": {
            "espeak": "1.52.0",
            "voices": ["en-us"],
            "problem": None,
            "system_binary": None,
            "flite": None,
            "edge_tts": False,
        },
        "media": {"audio": {"wav": True, "mp3": False}, "video": {"h264": True}, "problem": None},
        "extras": {"train": [], "ui": ["streamlit"]},
        "hub": {"probed": False, "reachable": None, "problem": None},
        "nano_weights": {"folder": "/assets", "files": ["nano/model.safetensors"], "mib": 12.0},
    }
    return report | changes


def test_the_machine_the_recipe_was_made_on_passes() -> None:
    assert seed_verdict(described()) == {"runs": True, "why": []}
    assert nano_verdict(described()) == {"runs": True, "why": []}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"torch": described()["torch"] | {"gpus": [CARD]}}, "torch sees RTX 4090 23.5 GiB"),
        ({"torch": described()["torch"] | {"gpus": []}}, "make setup TORCH=cuda"),
        (
            {"torch": described()["torch"] | {"gpus": [{"name": "A", "memory_gib": 15.7}] * 2}},
            "needs 2 cards of 22",
        ),
        ({"bitsandbytes": {"usable": False, "device": "cuda", "problem": "no library"}}, "no library"),
        ({"extras": {"train": ["accelerate"]}}, "missing from extra `train`: accelerate"),
        ({"memory_gib": 15.5}, "15.5 GiB of memory; 24 GiB are needed"),
        (
            {"disk": {"here_free_gib": 9.0, "model_cache": "/cache", "model_cache_free_gib": 9.0}},
            "9.0 GiB free in /cache; 60 GiB are needed",
        ),
        ({"hub": {"probed": True, "reachable": False, "problem": "refused"}}, "local checkpoint folders"),
    ],
)
def test_each_missing_thing_stops_the_seed_recipe_with_its_reason(
    changes: dict[str, Any], reason: str
) -> None:
    verdict = seed_verdict(described(**changes))
    assert not verdict["runs"]
    assert any(reason in why for why in verdict["why"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"python": {"version": "3.10.1", "executable": "python", "ok": False}}, "Python 3.11"),
        ({"torch": {"version": None, "problem": "No module named 'torch'", "gpus": []}}, "make setup"),
        ({"nano_weights": {"folder": "/assets", "files": [], "mib": 0.0}}, "weights are not in the package"),
        ({"memory_gib": 1.0}, "1.0 GiB of memory"),
        ({"media": {"audio": {}, "video": {}, "problem": "libsndfile is missing"}}, "libsndfile"),
    ],
)
def test_each_missing_thing_stops_nano_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    verdict = nano_verdict(described(**changes))
    assert not verdict["runs"]
    assert any(reason in why for why in verdict["why"])


def test_the_text_names_the_extra_that_brings_what_is_missing() -> None:
    report = described()
    report["verdicts"] = {"nano": nano_verdict(report), "seed": seed_verdict(report)}
    table = dict(lines(report))
    assert table["Extra ui"] == "missing streamlit: pip install 'surgvivqa-audio[ui]'"
    assert table["Extra train"] == "complete"
    assert table["Audio files"] == "wav, no mp3"
    assert table["GPU"] == "RTX 4090 (23.5 GiB), RTX 4090 (23.5 GiB)"
    assert table["Runs seed.yaml"] == "yes"


def test_it_describes_this_machine_without_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("the hub was asked"))
    result = CliRunner().invoke(app, ["doctor", "--json"])
    report = json.loads(result.stdout)
    assert report["python"]["ok"] is True
    assert report["torch"]["version"].startswith("2.")
    assert report["media"]["audio"]["wav"] is True
    assert report["media"]["video"]["h264"] is True
    assert "en-us" in report["speech"]["voices"]
    assert report["hub"] == {"probed": False, "reachable": None, "problem": None}
    assert set(report["extras"]) >= {"train", "dev", "ui", "tts-online", "track"}
    assert set(report["verdicts"]) == {"nano", "seed"}
    assert result.exit_code == (0 if report["verdicts"]["nano"]["runs"] else 1)


def test_online_reports_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("refused")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    assert machine._hub(True) == {"probed": True, "reachable": False, "problem": "refused"}
