"""SIGKILL of `speech make`: a fixed sample of what the soak run does in full."""

from __future__ import annotations

import pytest

from surgvivqa_audio.speech.soak import kill_speech_make

pytestmark = pytest.mark.integration


def test_a_kill_loses_nothing_and_repeats_nothing(tmp_path):
    result = kill_speech_make(
        tmp_path, random_kills=3, boundary_questions=1, boundary_step=2, questions=8, seed=1
    )
    assert result["faults"] == []
    assert result["boundary_kills"] >= 8
    assert result["random_kills"] == 3
