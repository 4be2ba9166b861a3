"""Clocks, medians, ratios with intervals, slopes, and what machine it was."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.provenance import git_commit, library_versions

RESAMPLES = 2000


def clock() -> float:
    """Milliseconds, after everything the GPU was given is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter() * 1e3


def timed(work: Callable[[], Any]) -> float:
    """Milliseconds of one call."""
    start = clock()
    work()
    return clock() - start


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile in the unit given."""
    if not times:
        raise ConfigError("nothing was timed; ask for at least one pair")
    return {
        "p50": round(float(np.percentile(times, 50)), 3),
        "p95": round(float(np.percentile(times, 95)), 3),
    }


def ratio(theirs: Sequence[float], ours: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """Median of the per-pair ratios theirs / ours with a 95 % bootstrap interval; above 1 ours is faster."""
    if len(theirs) != len(ours) or not ours:
        raise ConfigError(f"pairs are needed: {len(theirs)} and {len(ours)} times were given")
    ratios = np.asarray(theirs, dtype=float) / np.asarray(ours, dtype=float)
    draws = np.random.default_rng(seed).integers(0, len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
    return {
        "median": round(float(np.median(ratios)), 3),
        "ci95": [round(float(low), 3), round(float(high), 3)],
        "pairs": len(ratios),
    }


def slope(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Exponent of the growth of time with size: the slope of a line through the logarithms."""
    return round(float(np.polyfit(np.log(sizes), np.log(times), 1)[0]), 4)


def machine(device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Processor, threads, load and versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "versions": library_versions(),
        "git_commit": git_commit(),
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = {"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
    return found


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
