"""A recorder on the own machine: a page that walks one person through the questions.

The page is served on the loopback address only, under a secret path; recordings leave the browser for this
process and nothing else. Files and ``recordings.csv`` are what ``speech import`` reads.
"""

from __future__ import annotations

import csv
import io
import json
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

from surgvivqa_audio.errors import BadAnnotation, BadAudio
from surgvivqa_audio.files import write_text
from surgvivqa_audio.speech.audio import SAMPLE_RATE, decode_audio, write_wav
from surgvivqa_audio.speech.human import COLUMNS, Prompt, check_take, prompts, speaker_voice
from surgvivqa_audio.taxonomy import Taxonomy

LISTING = "recordings.csv"
_MAX_BODY = 16 << 20
_HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline'; media-src 'self' blob:",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class RecordingFolder:
    """Takes of one speaker: ``<speaker>/<number>-<template>-<type>.wav`` and the shared list."""

    def __init__(self, folder: str | Path, speaker: str, taxonomy: Taxonomy) -> None:
        speaker_voice(speaker)  # refuses names that cannot be a voice or a folder
        self.folder, self.speaker = Path(folder), speaker
        self.prompts = {prompt.number: prompt for prompt in prompts(taxonomy)}
        self._lock = threading.Lock()

    def _file(self, prompt: Prompt) -> str:
        return f"{self.speaker}/{prompt.number:02d}-{prompt.template}-{prompt.question_type}.wav"

    def path(self, number: int) -> Path:
        """Where the take of a prompt stands, made or not."""
        return self.folder / self._file(self.prompts[number])

    def state(self) -> dict[str, Any]:
        """What the page shows: prompts, and which are recorded."""
        listed = [
            {"number": number, "text": prompt.text, "done": self.path(number).is_file()}
            for number, prompt in self.prompts.items()
        ]
        return {"speaker": self.speaker, "prompts": listed}

    def _others(self) -> list[dict[str, str]]:
        path = self.folder / LISTING
        if not path.exists():
            return []
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        if any(set(row) != set(COLUMNS) for row in rows):
            raise BadAnnotation(f"{path}: not a list this recorder wrote; move it away")
        return [row for row in rows if row["speaker"] != self.speaker]

    def _write_listing(self) -> None:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._others())
        for number, prompt in self.prompts.items():
            if self.path(number).is_file():
                values = (
                    self._file(prompt),
                    self.speaker,
                    prompt.question_type,
                    prompt.template,
                    prompt.text,
                )
                writer.writerow(dict(zip(COLUMNS, values, strict=True)))
        write_text(self.folder / LISTING, buffer.getvalue())

    def store(self, number: int, content: bytes) -> float:
        """Check and keep a take; returns its seconds after the silence around it was cut.

        Raises:
            BadAudio: not decodable, silent, overdriven or over 30 s; nothing is kept.
        """
        name = f"question {number}"
        wave = check_take(decode_audio(content, name), name)
        with self._lock:
            write_wav(self.path(number), wave)
            self._write_listing()
        return wave.size / SAMPLE_RATE


class _Handler(BaseHTTPRequestHandler):
    server: RecorderServer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged: requests would name the speaker."""

    def _reply(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _json(self, status: HTTPStatus, value: dict[str, Any]) -> None:
        self._reply(status, json.dumps(value).encode(), "application/json")

    def _route(self) -> list[str] | None:
        """Path below the secret, None for anyone who does not know it or comes by another host name."""
        port = self.server.server_address[1]
        parts = self.path.split("?")[0].strip("/").split("/")
        known_host = self.headers.get("Host") in (f"127.0.0.1:{port}", f"localhost:{port}")
        if not known_host or not secrets.compare_digest(parts[0].encode(), self.server.secret.encode()):
            self._json(HTTPStatus.NOT_FOUND, {"error": "open the address that the command printed"})
            return None
        return parts[1:]

    def _take(self, route: list[str]) -> int | None:
        if len(route) == 2 and route[0] == "take" and route[1].isdecimal() and len(route[1]) < 6:
            number = int(route[1])
            return number if number in self.server.takes.prompts else None
        return None

    def do_GET(self) -> None:
        """Page, state or a take."""
        route = self._route()
        if route is None:
            return
        number = self._take(route)
        if not route:
            page = (files("surgvivqa_audio") / "speech" / "recorder.html").read_bytes()
            self._reply(HTTPStatus.OK, page, "text/html; charset=utf-8")
        elif route == ["state"]:
            self._json(HTTPStatus.OK, self.server.takes.state())
        elif number is not None and self.server.takes.path(number).is_file():
            self._reply(HTTPStatus.OK, self.server.takes.path(number).read_bytes(), "audio/wav")
        else:
            self._json(HTTPStatus.NOT_FOUND, {"error": "no such take"})

    def do_POST(self) -> None:
        """Keep a take."""
        route = self._route()
        if route is None:
            return
        number = self._take(route)
        length = self.headers.get("Content-Length", "")
        if number is None or not length.isdecimal() or int(length) > _MAX_BODY:
            self.close_connection = True
            self._json(HTTPStatus.BAD_REQUEST, {"error": "unknown question, or recording over 16 MB"})
            return
        try:
            seconds = self.server.takes.store(number, self.rfile.read(int(length)))
        except (BadAudio, BadAnnotation) as error:
            self._json(HTTPStatus.UNPROCESSABLE_ENTITY, {"error": str(error)})
            return
        self._json(HTTPStatus.OK, {"seconds": round(seconds, 2)})


class RecorderServer(ThreadingHTTPServer):
    """The recorder on a loopback port; ``url`` holds the secret path."""

    daemon_threads = True

    def __init__(self, takes: RecordingFolder, port: int = 0) -> None:
        self.takes = takes
        self.secret = secrets.token_urlsafe(16)
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        """Address to open in a browser on this machine."""
        return f"http://127.0.0.1:{self.server_address[1]}/{self.secret}/"
