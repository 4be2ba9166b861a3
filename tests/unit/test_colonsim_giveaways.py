"""A small fixed sample of the giveaway check; the full count is an integration test."""

from __future__ import annotations

import numpy as np

from colonsim_giveaways import COLOUR_TYPES, excess_over_chance, giveaway_rows


def test_giveaways_answer_colours_and_nothing_else() -> None:
    rows = giveaway_rows(range(600, 605), clips=56, size=40)
    excess = {name: excess_over_chance(found) for name, found in rows.items()}
    others = [value for name, value in excess.items() if name not in COLOUR_TYPES]
    assert len(others) == 13
    assert np.mean(others) < 0.05
    assert np.mean([excess[name] for name in COLOUR_TYPES]) > 0.2
