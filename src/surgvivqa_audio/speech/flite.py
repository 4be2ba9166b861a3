"""Offline synthesis with the system's ``flite``: recorded units instead of espeak-ng's formants.

Nothing is trained on it. It is the unfamiliar speaker of the evaluation: what the model understands of a
voice made in a wholly different way.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from surgvivqa_audio.errors import SpeechError
from surgvivqa_audio.speech.audio import Wave, decode_audio
from surgvivqa_audio.speech.voices import Voice

DEFAULT_VOICE = "slt"
MAX_CHARACTERS = 1000
_TIMEOUT_S = 30.0
_REFERENCE_RATE = 165  # words per minute at duration_stretch 1
_PLAIN_PITCH = 50


def stretch(voice: Voice) -> float:
    """flite's ``duration_stretch`` for a rate in words per minute."""
    return round(_REFERENCE_RATE / voice.rate, 3)


class FliteEngine:
    """The ``flite`` program (Debian package of that name). Equal calls give equal sound.

    Raises:
        SpeechError: the program is not installed.
    """

    name = "flite"
    licence = "flite is under an MIT-like licence (Carnegie Mellon University); runs offline"

    def __init__(self, binary: str = "flite") -> None:
        found = shutil.which(binary)
        if found is None:
            raise SpeechError(
                f"'{binary}' is not installed; `apt install flite`, or use the offline engine espeak"
            )
        self._binary = found
        version = re.search(r"flite-(\d+\.\d+(?:\.\d+)?)", self._call(["--version"]))
        self.version = version.group(1) if version else "unknown"
        self.voices = self._call(["-lv"]).partition(":")[2].split()

    def _call(self, arguments: list[str]) -> str:
        try:
            done = subprocess.run(
                [self._binary, *arguments], capture_output=True, timeout=_TIMEOUT_S, check=False, text=True
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SpeechError(f"'{self._binary}' cannot be run ({error}); install flite again") from error
        return done.stdout + done.stderr

    def synthesize(self, text: str, voice: Voice) -> Wave:
        """Speak ``text``; float32 (samples,) mono at 16 kHz in [-1, 1].

        Raises:
            SpeechError: unknown voice, a pitch (these voices have none to set), empty or overlong text.
        """
        if voice.name not in self.voices:
            raise SpeechError(f"flite has no voice '{voice.name}'; available: {', '.join(self.voices)}")
        if voice.pitch != _PLAIN_PITCH:
            raise SpeechError(f"voice {voice.id}: flite's voices keep their own pitch; leave it at 50")
        if not re.search(r"\w", text) or len(text) > MAX_CHARACTERS:
            raise SpeechError(
                f"text of {len(text)} characters; 1 to {MAX_CHARACTERS} with words can be spoken"
            )
        with tempfile.TemporaryDirectory(prefix="surgvivqa-flite-") as folder:
            path = Path(folder) / "spoken.wav"
            settings = ["-voice", voice.name, "--setf", f"duration_stretch={stretch(voice)}"]
            said = self._call([*settings, "-t", text, "-o", str(path)])
            if not path.is_file():
                raise SpeechError(f"flite could not speak '{text[:60]}': {said.strip() or 'no sound'}")
            return decode_audio(path.read_bytes(), f"flite '{text[:60]}'")

    def close(self) -> None:
        """Nothing is held."""
