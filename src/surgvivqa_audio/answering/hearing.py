"""What a system hears of a recorded question. Every system and the engine take the sound from here.

People breathe before and after a question; the models learn from recordings without that. One place, because
cutting a second time would measure another noise floor and may cut more.
"""

from __future__ import annotations

from surgvivqa_audio.answering.base import Wave
from surgvivqa_audio.speech.audio import trim_silence


def listen(wave: Wave) -> Wave:
    """A recording, mono 16 kHz (n,), without the silence around its speech, of which 0.1 s stay on each side.

    Call it once per recording. Silence, and a recording without samples, come back as they are.
    """
    return trim_silence(wave)
