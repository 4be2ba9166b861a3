"""The unfamiliar speaker: settings, and what is refused. Sound needs the program, see docs/speech.md."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from surgvivqa_audio.errors import SpeechError
from surgvivqa_audio.speech.flite import FliteEngine, stretch
from surgvivqa_audio.speech.voices import Voice


def test_rate_becomes_a_stretch_of_the_units() -> None:
    assert stretch(Voice("slt")) == 1.0
    assert stretch(Voice("slt", rate=110)) == 1.5
    assert stretch(Voice("slt", rate=200)) == 0.825


def test_missing_program_is_named_with_its_remedy() -> None:
    with pytest.raises(SpeechError, match="'no-such-flite' is not installed; `apt install flite`"):
        FliteEngine("no-such-flite")


def test_what_the_program_lists_is_what_can_be_asked_for(tmp_path: Path) -> None:
    program = tmp_path / "flite"
    program.write_text(
        "#!/bin/sh\n[ \"$1\" = -lv ] && echo 'Voices available: kal slt'\necho flite-2.2-release\n"
    )
    os.chmod(program, 0o755)
    engine = FliteEngine(str(program))
    assert engine.version == "2.2"
    assert engine.voices[:2] == ["kal", "slt"]
    with pytest.raises(SpeechError, match="flite has no voice 'anna'; available: kal, slt"):
        engine.synthesize("Is there a polyp?", Voice("anna"))
    with pytest.raises(SpeechError, match="keep their own pitch; leave it at 50"):
        engine.synthesize("Is there a polyp?", Voice("slt", pitch=40))
    with pytest.raises(SpeechError, match="1 to 1000 with words"):
        engine.synthesize("?!", Voice("slt"))
    with pytest.raises(SpeechError, match="flite could not speak 'Is there a polyp"):
        engine.synthesize("Is there a polyp?", Voice("slt"))
