"""Which clips of a data set a smaller run takes: a fixed draw, so that runs can be set beside each other."""

from __future__ import annotations

import hashlib
from itertools import zip_longest

from surgvivqa_audio.sample import Sample


def draw(groups: dict[str, list[Sample]], rows: int) -> dict[str, list[Sample]]:
    """At least ``rows`` rows where there are so many: one clip of each procedure in turn, whole clips.

    The order within a procedure depends on the name of the clip alone, so a larger draw holds a smaller one,
    and two runs over the same rows draw the same clips whatever their seed.
    """
    waiting: dict[str, list[str]] = {}
    for name in sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest()):
        waiting.setdefault(groups[name][0].video_id, []).append(name)
    turns = zip_longest(*(waiting[video] for video in sorted(waiting)))
    chosen: set[str] = set()
    found = 0
    for name in (name for turn in turns for name in turn if name is not None):
        if found >= rows:
            break
        chosen.add(name)
        found += len(groups[name])
    return {name: group for name, group in groups.items() if name in chosen}
