"""No type but those about colour can be answered from mean colour, file size or frame number."""

from __future__ import annotations

from collections import Counter

import pytest

from colonsim_giveaways import COLOUR_TYPES, excess_over_chance, giveaway_rows
from surgvivqa_audio.taxonomy import load_taxonomy

pytestmark = pytest.mark.integration


def test_twenty_procedures_of_sixty_clips() -> None:
    rows = giveaway_rows(range(5000, 5020), clips=60, size=112)
    for question_type in load_taxonomy().types.values():
        counts = Counter(answer for _, _, answer in rows[question_type.name])
        assert sum(counts.values()) >= 60, question_type.name
        assert min(counts[a.short] for a in question_type.answers) >= 10, (question_type.name, counts)
    excess = {name: round(excess_over_chance(found), 3) for name, found in rows.items()}
    assert {name: e for name, e in excess.items() if name not in COLOUR_TYPES and e > 0.10} == {}
