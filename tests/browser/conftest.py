"""The browser test needs Chromium, so it runs only when asked for: SURGVIVQA_BROWSER=1 (docs/demo.md)."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("SURGVIVQA_BROWSER") == "1" else ["test_*.py"]
