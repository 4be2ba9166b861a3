"""How the page is started: address, port, token, and what Streamlit may not do."""

from __future__ import annotations

import hmac
import importlib.util
import ipaddress
import json
import os
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from surgvivqa_audio.errors import ConfigError, MissingExtra, SurgVivqaError

VARIABLE = "SURGVIVQA_DEMO"  # carries the settings to the page; a token has no place in a process list
PAGE = Path(__file__).with_name("demo_page.py")
MIN_TOKEN = 16
WARM_AFTER = 10.0  # seconds; an earlier visitor's page is drawn before the model takes the processor
MAX_UPLOAD_MB = 64  # a larger body is refused before it is read


@dataclass(frozen=True)
class Settings:
    """What the page shows and to whom. Empty strings are defaults.

    Attributes:
        data: DATA folder; without one, patients are simulated.
        split: split file of the folder, without ``.jsonl``.
        model: checkpoint folder; without one, the nano model of the package.
        report: folder of an evaluation report.
    """

    data: str = ""
    split: str = ""
    model: str = ""
    report: str = ""
    host: str = "127.0.0.1"
    port: int = 8501
    token: str = ""
    seed: int = 77_000_001


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check(settings: Settings, cert: Path | None = None, key: Path | None = None) -> list[str]:
    """Refuse an unsafe address or half a certificate; returns warnings to print.

    Raises:
        ConfigError: another host without a token of enough characters, or a certificate without its key.
        MissingExtra: Streamlit is not installed.
    """
    if importlib.util.find_spec("streamlit") is None:
        raise MissingExtra("the page needs Streamlit: pip install 'surgvivqa-audio[ui]', or use --no-page")
    for path in (cert, key):
        if (cert is None) != (key is None) or (path is not None and not path.is_file()):
            raise ConfigError(f"--cert {cert} and --key {key}: name both, each an existing PEM file")
    if is_loopback(settings.host):
        return []
    if len(settings.token) < MIN_TOKEN:
        raise ConfigError(
            f"--host {settings.host} can be reached by others: set --token to at least {MIN_TOKEN} characters"
        )
    found = [f"{settings.host} can be reached by other machines; visitors need the token."]
    if cert is None:
        found.append(
            "Browsers give the microphone to a page over HTTPS or on this machine only: use --cert and --key "
            "or an SSH tunnel (docs/demo.md)."
        )
    return found


def admits(settings: Settings, given: str) -> bool:
    """Whether a visitor may enter; the comparison takes the same time wherever the first difference is."""
    return not settings.token or hmac.compare_digest(given.encode(), settings.token.encode())


def options(settings: Settings, cert: Path | None = None, key: Path | None = None) -> dict[str, Any]:
    """What Streamlit is told, by the names of its configuration."""
    found = {
        "server.address": settings.host,
        "server.port": settings.port,
        "server.headless": True,
        "server.fileWatcherType": "none",
        "server.maxUploadSize": MAX_UPLOAD_MB,
        "server.enableXsrfProtection": True,
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "theme.light.primaryColor": "#146c84",
        "theme.dark.primaryColor": "#5cc2d8",
    }
    if cert:
        found |= {"server.sslCertFile": str(cert), "server.sslKeyFile": str(key)}
    return found


def run(settings: Settings, cert: Path | None = None, key: Path | None = None) -> None:
    """Serve the page in this process until Ctrl+C: a second interpreter would start everything twice.

    Raises:
        ConfigError: the server cannot start, as a rule because the port is taken.
    """
    # peft imports this library wherever it is installed, which takes a quarter of the model's loading time.
    # The page never quantises, and this process serves nothing else.
    sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]
    from streamlit.web import bootstrap

    os.environ.update(environment(settings))
    warming = threading.Timer(WARM_AFTER, _warm, [settings.model])
    warming.daemon = True
    warming.start()
    told = options(settings, cert, key)
    bootstrap.load_config_options(told)
    try:
        bootstrap.run(str(PAGE), False, [], told)
    except SystemExit as ended:
        raise ConfigError(
            f"the page's server ended with code {ended.code}; is the port taken? choose --port"
        ) from ended


def _warm(model: str) -> None:
    """Load the model before anybody asks for it."""
    from surgvivqa_audio.apps import shared

    # A checkpoint that cannot be loaded is named on the page, to whoever opens it.
    with suppress(SurgVivqaError):
        shared.engine(model)


def environment(settings: Settings) -> dict[str, str]:
    """The variable that carries the settings to the page."""
    return {VARIABLE: json.dumps(asdict(settings))}


def read_settings() -> Settings:
    """The settings that the launcher left; defaults where the page was started by hand.

    Raises:
        ConfigError: the variable does not hold settings.
    """
    text = os.environ.get(VARIABLE, "{}")
    try:
        return Settings(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{VARIABLE}: not settings of the demo ({error}); start `surgvivqa demo`"
        ) from error
