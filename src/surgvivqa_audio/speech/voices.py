"""Voices: names of espeak-ng 1.52 with optional variant (``en-us+f3``), online voices, and people."""

from __future__ import annotations

import re
from dataclasses import dataclass

from surgvivqa_audio.errors import SpeechError

HUMAN = "human-"


@dataclass(frozen=True)
class Voice:
    """A speaker: voice name with optional variant, words per minute, pitch 0 to 99."""

    name: str
    rate: int = 165
    pitch: int = 50

    @property
    def human(self) -> bool:
        """Whether this is a person; people have no set rate or pitch."""
        return self.name.startswith(HUMAN)

    @property
    def id(self) -> str:
        """``en-us+f3-r165-p50``; read back by :func:`parse_voice`. A person has a name only."""
        if self.human:
            return self.name
        return f"{self.name}-r{self.rate}-p{self.pitch}"


def parse_voice(text: str) -> Voice:
    """Read ``en-us``, ``en-us+f3-r165``, ``human-anna`` or a full :attr:`Voice.id`.

    Raises:
        SpeechError: the text is none of these.
    """
    if re.fullmatch(HUMAN + r"[A-Za-z0-9-]+", text):
        return Voice(text)
    match = re.fullmatch(
        r"(?P<name>[A-Za-z0-9+_ -]+?)(?:-r(?P<rate>\d{2,3}))?(?:-p(?P<pitch>\d{1,2}))?", text
    )
    if match is None:
        raise SpeechError(f"voice '{text}' is not understood; write it like en-us or en-gb-x-rp+f2-r165-p50")
    return Voice(match["name"], int(match["rate"] or 165), int(match["pitch"] or 50))


_TRAIN_NAMES = (
    "en-us",
    "en-us+f2",
    "en-us+f4",
    "en-us+m3",
    "en-us+m5",
    "en-gb-x-rp",
    "en-gb-x-rp+f1",
    "en-gb-x-rp+m2",
    "en-gb-scotland",
    "en-029",
)
_HELD_OUT_NAMES = ("en-gb-x-gbclan+f3", "en-us-nyc+m1", "en-gb-x-gbcwmd+f5", "en-us+m7")

# Variants of espeak-ng that speech for training may use. The nearest to a held-out one is f2 (mean difference
# of the log-mel features of one question: 0.13), all others differ by 0.156 and more; Mario, max, Michael and
# Nguyen (0.105 to 0.150 from m7) are left out.
TRAIN_VARIANTS = (
    "f1", "f2", "f4", "m2", "m3", "m4", "m5", "m6", "m8", "Alex", "Alicia", "Andrea", "Annie", "Denis",
    "Diogo", "Gene", "Henrique", "Hugo", "Jacky", "Mike", "Reed", "RicishayMax", "adam", "anika",
    "announcer", "aunty", "belinda", "benjamin", "boris", "ed", "edward", "grandma", "grandpa",
    "gustave", "iven", "iven3", "john", "kaukovalta", "klatt", "klatt3", "linda", "marcelo", "miguel",
    "norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph",
    "steph3", "travis", "victor", "zac",
)  # fmt: skip

VOICES: tuple[Voice, ...] = tuple(
    Voice(name, rate, pitch) for name in _TRAIN_NAMES for rate in (140, 165, 190) for pitch in (38, 50, 62)
)
HELD_OUT_VOICES: tuple[Voice, ...] = tuple(
    Voice(name, rate, pitch) for name in _HELD_OUT_NAMES for rate, pitch in ((150, 45), (178, 56))
)
