"""Long proofs that are no unit tests: `make soak` runs all of them, `make soak ONLY=speech` one.

Each is a function that takes a folder and returns a JSON object with ``faults``, a list that must be empty.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from surgvivqa_audio.speech.soak import kill_speech_make

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "unit"), str(HERE / "integration")]

# The full counts of what `make test` runs as a fixed sample.
MALFORMED_INPUTS = 100_000
RANDOM_KILLS = 50
TRAINING_KILLS = 100


def fuzz_data(_folder: Path) -> dict[str, Any]:
    """Malformed rows, tables and box files; an uncaught exception is the fault."""
    from test_data_fuzz import fuzz

    return _without_fault(lambda: fuzz(MALFORMED_INPUTS))


def kill_data(_folder: Path) -> dict[str, Any]:
    """SIGKILL of the downloader and of the frame cache; what was lost or redone is the fault."""
    from test_data_kill import kills

    return _without_fault(lambda: kills(RANDOM_KILLS))


def interleave_questions(folder: Path) -> dict[str, Any]:
    """Questions to many open clips in any order; an answer that differs from a cold run is the fault."""
    from test_engine_interleaved import soak

    return soak(folder)


def kill_training(folder: Path) -> dict[str, Any]:
    """SIGKILL of a fine-tuning run; a resume that fails or ends elsewhere is the fault."""
    from test_training_kill import kill_training

    return kill_training(folder, random_kills=TRAINING_KILLS)


def _without_fault(proof: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return {**proof(), "faults": []}
    except Exception as error:  # noqa: BLE001 - whatever escaped is what this looks for; it is reported
        return {"faults": [f"{type(error).__name__}: {error}"]}


SOAKS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "speech": kill_speech_make,
    "data-fuzz": fuzz_data,
    "data-kill": kill_data,
    "training-kill": kill_training,
    "engine-interleaved": interleave_questions,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted(SOAKS), action="append", help="run only this one")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args()
    results = {}
    for name in options.only or sorted(SOAKS):
        with tempfile.TemporaryDirectory(prefix=f"soak-{name}-") as folder:
            results[name] = SOAKS[name](Path(folder))
        faults = results[name]["faults"]
        counts = {key: value for key, value in results[name].items() if key != "faults"}
        sys.stdout.write(f"{name}: {json.dumps(counts)}; {len(faults)} faults\n")
        sys.stdout.writelines(f"  {fault}\n" for fault in faults)
    if options.json:
        # A single proof that is run again replaces its own entry only.
        before = json.loads(options.json.read_text(encoding="utf-8")) if options.json.is_file() else {}
        options.json.write_text(json.dumps({**before, **results}, indent=2) + "\n", encoding="utf-8")
    return 1 if any(result["faults"] for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
