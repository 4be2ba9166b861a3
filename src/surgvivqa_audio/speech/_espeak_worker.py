"""Worker process around the espeak-ng C library; standard library only, started by path.

espeak-ng keeps random state from one utterance to the next, so the second synthesis of a sentence in one
process differs from the first. This process therefore initialises the library once, never speaks itself,
and forks a child for every utterance: each child starts from the same untouched state. That state is set to
the same in every process, because the library seeds it from the clock. Synchronous mode is required: the
retrieval mode starts a thread that does not survive a fork.

Requests: one JSON object per line on stdin (``text``, ``voice``, ``rate``, ``pitch``).
Replies: one JSON line (``bytes``, ``sample_rate``, ``error``) followed by that many bytes of int16 PCM.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any, BinaryIO

_SYNCHRONOUS = 2
_POSITION_CHARACTER = 1
_UTF8 = 1
_RATE, _PITCH = 1, 3
_DO_NOT_EXIT = 0x8000
SEED = 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def load(library: str, data: str) -> tuple[ctypes.CDLL, int, str]:
    """Initialise the library; returns ``(library, sample rate, version)``."""
    lib = ctypes.CDLL(library)
    lib.espeak_Info.restype = ctypes.c_char_p
    sample_rate = lib.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), _DO_NOT_EXIT)
    if sample_rate <= 0:
        raise OSError(f"espeak_Initialize returned {sample_rate} for the data folder {data}")
    seed(lib, SEED)
    return lib, sample_rate, lib.espeak_Info(None).decode().split()[0]


def seed(lib: ctypes.CDLL, number: int) -> None:
    """Set the random state, which the library takes from the clock; a voice with breath is made of it."""
    lib.espeak_ng_SetRandSeed(ctypes.c_long(number))


def speak(lib: ctypes.CDLL, request: dict[str, Any]) -> tuple[bytes, str]:
    """Synthesise one request; returns ``(PCM, error)``, one of them empty. Call once per process."""
    chunks: list[bytes] = []

    def collect(wave: Any, count: int, _events: Any) -> int:
        if wave and count > 0:
            chunks.append(ctypes.string_at(wave, count * 2))
        return 0

    callback = _CALLBACK(collect)
    lib.espeak_SetSynthCallback(callback)
    # an unknown name returns non-zero and silently keeps the previous voice
    if lib.espeak_SetVoiceByName(request["voice"].encode()) != 0:
        return b"", "voice"
    lib.espeak_SetParameter(_RATE, int(request["rate"]), 0)
    lib.espeak_SetParameter(_PITCH, int(request["pitch"]), 0)
    text = request["text"].encode() + b"\0"
    code = lib.espeak_Synth(text, len(text), 0, _POSITION_CHARACTER, 0, _UTF8, None, None)
    if code != 0:
        return b"", f"espeak_Synth returned {code}"
    return b"".join(chunks), ""


def _write_all(handle: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]


def _child(lib: ctypes.CDLL, request: dict[str, Any], handle: int) -> None:
    pcm, error = speak(lib, request)
    _write_all(handle, (b"e" + error.encode()) if error else (b"p" + pcm))


def _forked(lib: ctypes.CDLL, request: dict[str, Any]) -> tuple[bytes, str]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            _child(lib, request, writer)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        content = stream.read()
    _, status = os.waitpid(pid, 0)
    if status != 0 or not content:
        return b"", f"the synthesis process ended with status {status}"
    return (content[1:], "") if content[:1] == b"p" else (b"", content[1:].decode())


def serve(library: str, data: str, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until stdin closes; the first reply line says rate and version."""
    try:
        lib, sample_rate, version = load(library, data)
    except OSError as failure:
        replies.write(json.dumps({"error": str(failure)}).encode() + b"\n")
        replies.flush()
        return
    replies.write(json.dumps({"error": "", "sample_rate": sample_rate, "version": version}).encode() + b"\n")
    replies.flush()
    for line in requests:
        pcm, error = _forked(lib, json.loads(line))
        header = {"bytes": len(pcm), "sample_rate": sample_rate, "error": error}
        replies.write(json.dumps(header).encode() + b"\n" + pcm)
        replies.flush()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], sys.stdin.buffer, sys.stdout.buffer)
