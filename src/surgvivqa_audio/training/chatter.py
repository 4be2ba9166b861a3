"""Things said in a room that no clip answers, from a small grammar: what the model learns to refuse.

The out-of-scope questions of the taxonomy are too few to learn a boundary from. A test keeps these sentences
apart from those that thresholds are set and measured on.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from surgvivqa_audio.speech.phrasing import expand


@lru_cache(maxsize=1)
def chatter() -> tuple[str, ...]:
    """All sentences of ``chatter.txt``, in order, with a closing mark."""
    lines = files("surgvivqa_audio.training").joinpath("chatter.txt").read_text(encoding="utf-8").splitlines()
    texts = [text for line in lines if line and not line.startswith("#") for text in expand(line)]
    return tuple(text if text[-1] in ".?!" else text + "?" for text in texts)
