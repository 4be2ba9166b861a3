"""What `surgvivqa doctor` looks at. Probes only read; none writes, downloads or raises."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import sys
import urllib.request
from importlib.resources import files
from pathlib import Path
from typing import Any

from surgvivqa_audio.host_memory import total_memory

GIB = 1 << 30
AUDIO_FORMATS = ("WAV", "FLAC", "OGG", "MP3")
VIDEO_CODECS = ("h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg", "opus", "aac", "vorbis")


def _python() -> dict[str, Any]:
    return {
        "version": platform.python_version(),
        "executable": sys.executable,
        "ok": sys.version_info >= (3, 11),
    }


def _cpu() -> dict[str, Any]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cores": usable, "omp_num_threads": os.environ.get("OMP_NUM_THREADS")}


def _disk() -> dict[str, Any]:
    cache = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return {
        "here_free_gib": round(shutil.disk_usage(Path.cwd()).free / GIB, 1),
        "model_cache": str(cache),
        "model_cache_free_gib": round(shutil.disk_usage(existing).free / GIB, 1),
    }


def _torch() -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        return {"version": None, "problem": str(error), "cuda_build": None, "threads": 0, "gpus": []}
    gpus = []
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        gpus.append({"name": card.name, "memory_gib": round(card.total_memory / GIB, 1)})
    return {
        "version": str(torch.__version__),
        "problem": None,
        "cuda_build": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def _driver() -> dict[str, Any]:
    """What the NVIDIA driver itself sees, which may be more than this build of torch can use."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {"version": None, "gpus": [], "problem": "nvidia-smi is not installed"}
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"version": None, "gpus": [], "problem": f"nvidia-smi: {error}"}
    rows = [line.split(", ") for line in done.stdout.splitlines() if line.count(", ") == 2]
    if done.returncode or not rows:
        return {"version": None, "gpus": [], "problem": (done.stdout + done.stderr).strip()[:200]}
    gpus = [{"name": name, "memory_gib": round(float(mib) / 1024, 1)} for name, mib, _ in rows]
    return {"version": rows[0][2], "gpus": gpus, "problem": None}


def _bitsandbytes(device: str) -> dict[str, Any]:
    """Quantize one small tensor: an import alone does not show that the native library loads."""
    # It also reports optional kernels that it did not find; nothing here needs them.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import torch
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        packed, state = quantize_4bit(torch.ones(64, 64, device=device), quant_type="nf4")
        back = dequantize_4bit(packed, state)
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        return {"usable": False, "device": device, "problem": str(error).splitlines()[0][:200]}
    exact = bool((back == 1).all())
    return {"usable": exact, "device": device, "problem": None if exact else "4-bit round trip is wrong"}


def _speech() -> dict[str, Any]:
    from surgvivqa_audio.errors import SpeechError
    from surgvivqa_audio.speech.engine import EspeakEngine

    report: dict[str, Any] = {
        "system_binary": shutil.which("espeak-ng"),
        "flite": shutil.which("flite"),
        "edge_tts": importlib.util.find_spec("edge_tts") is not None,
    }
    try:
        with EspeakEngine() as engine:
            voices = engine.voices()
            return report | {"espeak": engine.version, "voices": voices, "problem": None}
    except SpeechError as error:
        return report | {"espeak": None, "voices": [], "problem": str(error)}


def _media() -> dict[str, Any]:
    report: dict[str, Any] = {"audio": {}, "video": {}, "problem": None}
    try:
        import av
        import soundfile
    except (ImportError, OSError) as error:
        return report | {"problem": str(error)}
    formats = soundfile.available_formats()
    report["audio"] = {name.lower(): name in formats for name in AUDIO_FORMATS}
    report["video"] = {name: name in av.codecs_available for name in VIDEO_CODECS}
    return report


def _extras() -> dict[str, list[str]]:
    """Each optional extra, mapped to the packages of it that are not installed.

    Empty when the package runs from a folder without being installed.
    """
    from packaging.requirements import Requirement

    distribution = importlib.metadata.distribution("surgvivqa-audio")
    missing: dict[str, list[str]] = {
        extra: [] for extra in distribution.metadata.get_all("Provides-Extra", [])
    }
    for text in distribution.requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            continue
        for extra, names in missing.items():
            if not requirement.marker.evaluate({"extra": extra}):
                continue
            try:
                importlib.metadata.version(requirement.name)
            except importlib.metadata.PackageNotFoundError:
                names.append(requirement.name)
    return missing


def _hub(online: bool) -> dict[str, Any]:
    """Whether the model hub answers; asked only on request, because the default is offline."""
    if not online:
        return {"probed": False, "reachable": None, "problem": None}
    from huggingface_hub.constants import ENDPOINT

    try:
        with urllib.request.urlopen(ENDPOINT, timeout=5):
            return {"probed": True, "reachable": True, "problem": None}
    except OSError as error:
        return {"probed": True, "reachable": False, "problem": str(error)}


def _nano_weights() -> dict[str, Any]:
    folder = Path(str(files("surgvivqa_audio") / "assets"))
    found = sorted(folder.rglob("*.safetensors"))
    return {
        "folder": str(folder),
        "files": [str(path.relative_to(folder)) for path in found],
        "mib": round(sum(path.stat().st_size for path in found) / (1 << 20), 1),
    }


def examine(online: bool = False) -> dict[str, Any]:
    """Every finding, as plain JSON values. Memory and disk in GiB.

    Args:
        online: also ask whether the model hub answers; otherwise nothing leaves the machine.
    """
    torch = _torch()
    return {
        "python": _python(),
        "cpu": _cpu(),
        "memory_gib": round(total_memory() / GIB, 1),
        "disk": _disk(),
        "torch": torch,
        "driver": _driver(),
        "bitsandbytes": _bitsandbytes("cuda" if torch["gpus"] else "cpu"),
        "speech": _speech(),
        "media": _media(),
        "extras": _extras(),
        "hub": _hub(online),
        "nano_weights": _nano_weights(),
    }
