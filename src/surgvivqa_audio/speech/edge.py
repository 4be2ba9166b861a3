"""Online synthesis with edge-tts: an explicit extra, never a fallback.

The service is not under anybody's control here: it refuses at times, and its output may change. Requests are
repeated with growing, jittered pauses; the cache keeps what succeeded, so a run continues where it stopped.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import random
import re
import time
from collections.abc import Callable
from typing import Any

from surgvivqa_audio.errors import BadAudio, MissingExtra, SpeechError
from surgvivqa_audio.speech.audio import Wave, decode_audio
from surgvivqa_audio.speech.voices import Voice

DEFAULT_VOICE = "en-US-AriaNeural"
ATTEMPTS = 5
_TIMEOUT_S = 90.0
_LONGEST_PAUSE_S = 60.0
_REFERENCE_RATE = 165  # words per minute of a voice at +0 %
_REFERENCE_PITCH = 50

Fetch = Callable[[str, Voice], bytes]


def prosody(voice: Voice) -> tuple[str, str]:
    """Rate and pitch as the service wants them: ``+0%`` and ``+0Hz`` for 165 words a minute and pitch 50."""
    rate = round(100 * (voice.rate / _REFERENCE_RATE - 1))
    return f"{rate:+d}%", f"{voice.pitch - _REFERENCE_PITCH:+d}Hz"


async def _collect(text: str, voice: Voice) -> bytes:
    import edge_tts

    rate, pitch = prosody(voice)
    chunks: list[bytes] = []
    async for chunk in edge_tts.Communicate(text, voice.name, rate=rate, pitch=pitch).stream():
        if chunk["type"] == "audio":
            chunks.append(chunk["data"])
    return b"".join(chunks)


def fetch_online(text: str, voice: Voice) -> bytes:
    """One request to the service; MP3 bytes.

    Raises:
        SpeechError: the request failed, for whatever reason on the network or at the service.
    """
    import edge_tts

    aiohttp: Any = importlib.import_module("aiohttp")  # comes with edge-tts
    try:
        return asyncio.run(asyncio.wait_for(_collect(text, voice), _TIMEOUT_S))
    except (edge_tts.exceptions.EdgeTTSException, aiohttp.ClientError, TimeoutError, OSError) as error:
        raise SpeechError(f"edge-tts: {type(error).__name__} {error}".strip()) from error


class EdgeEngine:
    """Voices of Microsoft's browser service through edge-tts.

    Args:
        allow_online: must be True: every question text is sent to a third party.
        fetch: one request; replaced in tests.
        attempts: requests per utterance before it counts as failed.
        pause: called with seconds between attempts.

    Raises:
        SpeechError: ``allow_online`` is False.
        MissingExtra: edge-tts is not installed.
    """

    name = "edge-tts"
    licence = (
        "unofficial client (LGPL-3.0) of Microsoft's browser speech service; the text was sent to Microsoft; "
        "its terms, not ours, decide on use and redistribution of the sound"
    )

    def __init__(
        self,
        allow_online: bool,
        fetch: Fetch = fetch_online,
        attempts: int = ATTEMPTS,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        if not allow_online:
            raise SpeechError(
                "the edge engine sends the question texts to Microsoft; agree with --allow-online, or use "
                "the offline engine espeak"
            )
        try:
            self.version = importlib.metadata.version("edge-tts")
        except importlib.metadata.PackageNotFoundError as error:
            raise MissingExtra(
                "edge-tts is not installed: `pip install 'surgvivqa-audio[tts-online]'`, or use espeak"
            ) from error
        self._fetch, self._attempts, self._pause = fetch, attempts, pause
        self._jitter = random.Random()

    def _delay(self, failures: int) -> float:
        return min(_LONGEST_PAUSE_S, 2.0**failures) * self._jitter.uniform(0.5, 1.5)

    def synthesize(self, text: str, voice: Voice) -> Wave:
        """Speak ``text``; float32 (samples,) mono at 16 kHz in [-1, 1]. Not repeatable bit for bit.

        Raises:
            SpeechError: no online voice, or every attempt failed; holds the last reason.
        """
        if not re.fullmatch(r"[a-z]{2,3}-[A-Za-z]+(-[A-Za-z]+)*Neural", voice.name):
            raise SpeechError(f"'{voice.name}' is no online voice; write it like {DEFAULT_VOICE}")
        reason = ""
        for failures in range(self._attempts):
            if failures:
                self._pause(self._delay(failures))
            try:
                return decode_audio(self._fetch(text, voice), "edge-tts reply")
            except (SpeechError, BadAudio) as error:
                reason = str(error)
        raise SpeechError(
            f"{reason}; {self._attempts} attempts. Run the same command later: what is done is kept"
        )

    def close(self) -> None:
        """Nothing stays open between requests."""
