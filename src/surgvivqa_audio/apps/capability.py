"""What is known about the model and the data: read from files, never written in code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgvivqa_audio.errors import ConfigError

REPORT = "report.json"
STATS = "data_stats.json"


@dataclass(frozen=True)
class Measured:
    """One question type in the evaluation report; shares 0..1. ``floor`` is the blind constant answer."""

    rows: int
    accuracy: float
    floor: float
    low: float
    high: float


@dataclass(frozen=True)
class Profile:
    """The main run of an evaluation report, per question type."""

    path: Path
    run: str
    simulated: bool
    by_type: dict[str, Measured]

    @property
    def page(self) -> Path | None:
        """The report's HTML page, where it lies beside the figures."""
        page = self.path.with_suffix(".html")
        return page if page.is_file() else None


def _read(path: Path, what: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as {what} ({error}); write it again") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: a JSON object is needed for {what}; write it again")
    return value


def read_profile(path: Path) -> Profile:
    """Measured accuracy and floor per type from ``report.json``.

    Raises:
        ConfigError: the file is missing or not a report of `surgvivqa eval report`.
    """
    report = _read(path, "an evaluation report")
    try:
        run = str(report["main"])
        by_type = {
            str(name): Measured(
                int(entry["rows"]),
                float(entry["closed_set"]),
                float(entry["floor"]),
                float(entry["ci95"][0]),
                float(entry["ci95"][1]),
            )
            for name, entry in report["runs"][run]["by_type"].items()
        }
        return Profile(path, run, bool(report["simulated"]), by_type)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ConfigError(f"{path}: not a report of `surgvivqa eval report` ({error!r})") from error


def read_stats(path: Path) -> dict[str, dict[str, Any]]:
    """Per part: rows, videos, question types. From the file that `surgvivqa data stats` writes.

    Raises:
        ConfigError: the file is missing or of another form.
    """
    parts = _read(path, "data statistics").get("parts")
    if not isinstance(parts, dict):
        raise ConfigError(f"{path}: holds no 'parts'; write it again with `surgvivqa data stats`")
    try:
        return {
            str(name): {
                "rows": int(part["rows"]),
                "videos": len(part["videos"]),
                "types": len(part["types"]),
                "informative": len(part["informative"]),
            }
            for name, part in parts.items()
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not the statistics of `surgvivqa data stats` ({error!r})") from error


def find(name: str, folders: list[Path | None]) -> Path | None:
    """The first of the folders that holds a file of this name, itself or in ``report/``."""
    for folder in folders:
        if folder is None:
            continue
        for path in (folder / name, folder / "report" / name):
            if path.is_file():
                return path
    return None
