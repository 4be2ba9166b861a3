"""Which addresses may be opened: https, and plain http on this machine itself (a mirror, the tests)."""

from __future__ import annotations

import ipaddress
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from surgvivqa_audio.errors import FetchError


def check_url(url: str) -> str:
    """Return ``url`` when it may be opened.

    Raises:
        FetchError: neither https nor http on this machine.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError as error:
        raise FetchError(f"{url!r} is not an address ({error})") from error
    if parts.scheme == "https" and host:
        return url
    if parts.scheme == "http" and _is_local(host):
        return url
    raise FetchError(f"{url!r}: only https addresses are opened")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few, each held to the same rule."""

    max_redirections = 5

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
