"""No type but those about colour can be answered from mean colour, file size or frame number."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from colonsim_giveaways import COLOUR_TYPES, excess_over_chance, giveaway_rows
from surgvivqa_audio.taxonomy import load_taxonomy

pytestmark = pytest.mark.integration


FIRST = 5000


def test_forty_procedures_of_sixty_clips() -> None:
    # twenty are enough for the counts; the share of an eight-answer type needs forty to be known to 2 points
    rows = giveaway_rows(range(FIRST, FIRST + 40), clips=60, size=112)
    for question_type in load_taxonomy().types.values():
        half = [answer for seed, _, answer in rows[question_type.name] if seed < FIRST + 20]
        counts = Counter(half)
        assert len(half) >= 60, question_type.name
        assert min(counts[a.short] for a in question_type.answers) >= 10, (question_type.name, counts)
    excess = {name: round(excess_over_chance(found), 3) for name, found in rows.items()}
    assert {name: e for name, e in excess.items() if name not in COLOUR_TYPES and e > 0.10} == {}


def test_giveaways_answer_colours_and_nothing_else() -> None:
    """On average over types, at a tenth of the size: here colour types must be answerable, too."""
    rows = giveaway_rows(range(600, 605), clips=56, size=40)
    excess = {name: excess_over_chance(found) for name, found in rows.items()}
    others = [value for name, value in excess.items() if name not in COLOUR_TYPES]
    assert len(others) == 13
    assert np.mean(others) < 0.05
    assert np.mean([excess[name] for name in COLOUR_TYPES]) > 0.2
