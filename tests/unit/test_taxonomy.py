"""The taxonomies that ship: literal answer sets, and errors that name file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.taxonomy import Taxonomy, load_taxonomy, read_taxonomy


def test_realcolon_has_twenty_types_in_six_domains(taxonomy: Taxonomy) -> None:
    assert len(taxonomy.types) == 20
    assert len(taxonomy.domains) == 6
    assert sum(kind.binary for kind in taxonomy.types.values()) == 11
    assert len(taxonomy.sentences()) == 56  # 55 answers and the refusal


@pytest.mark.parametrize(
    ("name", "published", "completed"),
    [
        ("blue_dye_presence", ["no"], ["yes"]),
        ("lighting_mode", ["NBI"], ["WL"]),
        ("lesion_size_range", ["<5"], ["5-9", ">9"]),
        ("fluid_occlusion_level", ["absent", "complete"], ["partial"]),
        (
            "lesion_site",
            ["ascending", "descending", "sigma", "rectum"],
            ["cecum", "hepatic flexure", "transverse", "splenic flexure"],
        ),
        ("tool_identification", ["forceps", "catheter", "snare"], []),
        ("lesion_motion_direction", ["up", "down", "left", "right", "stable"], []),
    ],
)
def test_answer_sets_are_completed_and_say_what_was_published(
    taxonomy: Taxonomy, name: str, published: list[str], completed: list[str]
) -> None:
    answers = taxonomy.types[name].answers
    assert [answer.short for answer in answers if answer.published] == published
    assert [answer.short for answer in answers if not answer.published] == completed


def test_two_types_have_one_wording_in_both_templates(taxonomy: Taxonomy) -> None:
    same = [kind.name for kind in taxonomy.types.values() if kind.in_template == kind.out_template]
    assert same == ["endoscope_visibility", "scope_motion_type"]


def test_absent_lesion_or_tool_is_refused_by_an_explicit_sentence(taxonomy: Taxonomy) -> None:
    assert taxonomy.sentences()[taxonomy.refusal.sentence] == ("", "unanswerable")
    needs = {kind.name: kind.requires for kind in taxonomy.types.values() if kind.requires}
    assert needs == {
        "tool_catheter_check": "tool",
        "tool_identification": "tool",
        "lesion_size_range": "lesion",
        "lesion_histology_extended": "lesion",
        "lesion_site": "lesion",
        "lesion_screen_position": "lesion",
        "lesion_motion_direction": "lesion",
    }


def test_a_second_dataset_is_a_second_file() -> None:
    endovis = load_taxonomy("endovis18")
    assert {name: len(kind.answers) for name, kind in endovis.types.items()} == {
        "organ": 1,
        "tool_state": 13,
        "tool_location": 4,
    }


def test_unknown_name_lists_what_exists() -> None:
    with pytest.raises(ConfigError, match="known: endovis18, realcolon"):
        load_taxonomy("gastroscopy")


MINIMAL = """
name = "t"
[dataset]
title = "t"
source = "s"
licence = "l"
rows = 1
[domains]
d = "D"
[refusal]
short = "u"
sentence = "No answer."
[types.a]
domain = "%s"
in_template = "A?"
out_template = "B?"
answers = [{ short = "yes", published = true, sentence = "Yes." }, { short = "%s", published = true, %s }]
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL % ("x", "no", 'sentence = "No."'), r"t\.toml: \[types\.a\] unknown domain 'x'"),
        (MINIMAL % ("d", "yes", 'sentence = "No."'), r"\[types\.a\] repeats a short answer"),
        (MINIMAL % ("d", "no", 'sentence = "Yes."'), r"two answers share one sentence"),
        (MINIMAL % ("d", "no", 'text = "No."'), r"t\.toml: key 'types\.a\.answers\.1"),
        ("name = ", r"t\.toml: cannot be read as TOML"),
    ],
)
def test_wrong_files_are_refused_with_their_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_taxonomy(path)


def test_a_valid_small_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(MINIMAL % ("d", "no", 'sentence = "No."'))
    assert read_taxonomy(path).sentences() == {
        "Yes.": ("a", "yes"),
        "No.": ("a", "no"),
        "No answer.": ("", "u"),
    }
