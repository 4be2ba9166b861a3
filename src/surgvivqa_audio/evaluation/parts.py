"""Finished batches of a run that is still going, so that a kill loses one batch at most."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.files import dump_json, read_jsonl, write_jsonl, write_text


class Parts:
    """A folder beside ``out`` with one small complete file per finished batch.

    Raises:
        ConfigError: the folder belongs to a run with other settings or data.
    """

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        self.folder = out.with_name(out.name + ".parts")
        mark = self.folder / "run.json"
        if mark.is_file() and mark.read_text(encoding="utf-8") != dump_json(identity):
            raise ConfigError(
                f"{self.folder} holds the unfinished rows of a run with other settings or data; "
                "finish that run with its own options, or delete the folder"
            )
        if not mark.is_file():
            write_text(mark, dump_json(identity))
        self._count = len(self._files())

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("rows-*.jsonl"))

    def finished(self) -> dict[str, dict[str, Any]]:
        """Rows of all finished batches, by key."""
        return {row["key"]: row for path in self._files() for _, row in read_jsonl(path)}

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Keep one finished batch."""
        write_jsonl(self.folder / f"rows-{self._count:06d}.jsonl", rows)
        self._count += 1

    def discard(self) -> None:
        """Remove the folder once the rows are elsewhere."""
        shutil.rmtree(self.folder)
