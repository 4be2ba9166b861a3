"""The answer parser against a table of literal cases: (question type, answer text, option or None)."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgvivqa_audio.scoring.parse import AnswerParser, Label
from surgvivqa_audio.taxonomy import load_taxonomy

TOOL, SIZE, SITE = "tool_identification", "lesion_size_range", "lesion_site"
HISTOLOGY, QUADRANT, DRIFT = "lesion_histology_extended", "lesion_screen_position", "lesion_motion_direction"
LIGHT, FLUID, TRAVEL = "lighting_mode", "fluid_occlusion_level", "scope_motion_type"
BODY, CATHETER, MUCOSA, NBI = "endoscope_visibility", "tool_catheter_check", "mucosa_visibility", "nbi_status"
DYE, BLOCK, FLUSH = "blue_dye_presence", "occlusion_check", "flush_action"
MOVES, FORWARD, BACKWARD, OUTSIDE = (
    "scope_motion",
    "scope_forward_motion",
    "scope_backward_motion",
    "scope_outside",
)

CASES: list[tuple[str, str, str | None]] = [
    # yes and no, plainly
    (MOVES, "yes", "yes"),
    (MOVES, "No", "no"),
    (MOVES, "YES.", "yes"),
    (MOVES, " no \n", "no"),
    (MOVES, "Yes, it is.", "yes"),
    (MOVES, "No, it isn't.", "no"),
    (MOVES, "No, it isn’t.", "no"),
    (MOVES, "yeah", "yes"),
    (MOVES, "Nope.", "no"),
    (MOVES, "True", "yes"),
    (MOVES, "Answer: yes", "yes"),
    (MOVES, '"Yes"', "yes"),
    (MOVES, "**No**", "no"),
    (MOVES, "Yes, without doubt.", "yes"),
    (MOVES, "Yes, there is no doubt.", "yes"),
    (MOVES, "Yes, the scope is moving across the frames.", "yes"),
    (MOVES, "yes the scope is moving across the frames", "yes"),
    (MOVES, "The scope is moving across the frames.", "yes"),
    (MOVES, "The scope is moving.", "yes"),
    (MOVES, "The scope is not moving.", "no"),
    (MOVES, "There is no movement of the scope.", "no"),
    (MOVES, "It doesn't move.", "no"),
    # yes and no, not to be taken
    (MOVES, "", None),
    (MOVES, "   ", None),
    (MOVES, ".", None),
    (MOVES, "normal", None),
    (MOVES, "not sure", None),
    (MOVES, "I don't know.", None),
    (MOVES, "nothing", None),
    (MOVES, "unknown", None),
    (MOVES, "eyes", None),
    (MOVES, "yesterday", None),
    (MOVES, "yes and no", None),
    (MOVES, "yes no", None),
    (MOVES, "Yes or no", None),
    (MOVES, "yes/no", None),
    (MOVES, "No. Yes.", None),
    (MOVES, "Yes, no.", None),
    (MOVES, "Yes, the scope is not moving.", None),
    (MOVES, "Yes, the scope is moving across the frames. No, the scope is not moving in these frames.", None),
    (MOVES, "Yes, the scope is moving across the frames. No.", None),
    (MOVES, "The scope is", None),
    (MOVES, "scope", None),
    (MOVES, "no idea", None),
    (MOVES, "none of these", None),
    (MOVES, "advancing", None),
    # polarity against what each type affirms or denies
    (BODY, "visible", "yes"),
    (BODY, "not visible", "no"),
    (BODY, "It is not clearly visible.", "no"),
    (BODY, "The endoscope body is visible.", "yes"),
    (BODY, "The endoscope body is not visible.", "no"),
    (BODY, "No visible endoscope", "no"),
    (BODY, "Yes, not visible", None),
    (BODY, "invisible", None),
    (CATHETER, "It is not a catheter.", "no"),
    (CATHETER, "No, the visible tool is a snare.", "no"),
    (CATHETER, "Yes, a catheter", "yes"),
    (CATHETER, "Yes, the visible tool is not a catheter.", None),
    (CATHETER, "forceps", None),
    (MUCOSA, "Yes, with no debris at all.", "yes"),
    (MUCOSA, "No, clean mucosa isn't consistently visible", "no"),
    (MUCOSA, "No clean mucosa is visible.", "no"),
    (MUCOSA, "Clean mucosa is visible.", "yes"),
    (NBI, "No, WL light is on instead.", "no"),
    (NBI, "WL light is on instead", "no"),
    (NBI, "NBI light is on in these frames.", "yes"),
    (NBI, "NBI is not on.", "no"),
    (DYE, "No, no dye is visible on the mucosa.", "no"),
    (DYE, "There is no dye on the mucosa", "no"),
    (DYE, "no dye", "no"),
    (DYE, "Yes, no dye is visible on the mucosa.", None),
    (DYE, "Yes, blue dye is visible on the mucosa.", "yes"),
    (DYE, "blue", None),
    (BLOCK, "The view is not blocked.", "no"),
    (BLOCK, "There is no obstruction", "no"),
    (BLOCK, "Yes, a close-up obstruction blocks the view.", "yes"),
    (BLOCK, "Yes, a close up obstruction blocks the view", "yes"),
    (FLUSH, "There is no flushing observed.", "no"),
    (FLUSH, "The endoscopist is not flushing.", "no"),
    (FLUSH, "The endoscopist is flushing the scene.", "yes"),
    (FORWARD, "Yes, the scope is advancing.", "yes"),
    (FORWARD, "No, the scope is withdrawing.", "no"),
    (FORWARD, "not advancing", "no"),
    (FORWARD, "Yes, the scope is withdrawing.", None),
    (FORWARD, "No, the scope is advancing.", None),
    (BACKWARD, "No, the scope is advancing.", "no"),
    (BACKWARD, "Yes, the scope is withdrawing.", "yes"),
    (BACKWARD, "Yes, the scope is advancing.", None),
    (OUTSIDE, "Yes, it is outside the patient", "yes"),
    (OUTSIDE, "The scope is not outside the patient.", "no"),
    (OUTSIDE, "The scope stays within the patient.", "no"),
    (OUTSIDE, "Yes, the scope stays within the patient.", None),
    (OUTSIDE, "The scope is not within the patient.", None),
    # instruments
    (TOOL, "forceps", "forceps"),
    (TOOL, "Forceps are visible on screen.", "forceps"),
    (TOOL, "A biopsy forceps", "forceps"),
    (TOOL, "forceps, forceps", "forceps"),
    (TOOL, "The tool is a snare.", "snare"),
    (TOOL, "polypectomy snare", "snare"),
    (TOOL, "Catheters", "catheter"),
    (TOOL, "grasper", None),
    (TOOL, "endoscope", None),
    (TOOL, "spring clip", None),
    (TOOL, "not forceps", None),
    (TOOL, "It is not a snare or a catheter.", None),
    (TOOL, "Not a snare but forceps", "forceps"),
    (TOOL, "Forceps, not a snare.", "forceps"),
    (TOOL, "forceps rather than a snare", "forceps"),
    (TOOL, "The forceps are not visible.", None),
    (TOOL, "neither forceps nor snare", None),
    (TOOL, "forceps or snare", None),
    (TOOL, "forceps and catheter", None),
    (TOOL, "Forceps are visible on screen. Snare is visible on screen.", None),
    (TOOL, "Forceps are visible on screen. Perhaps a snare.", None),
    (TOOL, "No, snare", "snare"),
    (TOOL, "no catheter, forceps", "forceps"),
    (TOOL, "No, the visible tool is not a catheter.", None),
    (TOOL, "Yes, the visible tool is a catheter.", None),
    (TOOL, "ensnared", None),
    (TOOL, "yes", None),
    # sizes and units
    (SIZE, "<5", "<5"),
    (SIZE, "<5 mm", "<5"),
    (SIZE, "< 5 mm", "<5"),
    (SIZE, "<5mm", "<5"),
    (SIZE, "The lesion is <5 mm.", "<5"),
    (SIZE, "The lesion is < 5mm", "<5"),
    (SIZE, "less than 5 mm", "<5"),
    (SIZE, "Less than five millimetres", "<5"),
    (SIZE, "smaller than 5 mm", "<5"),
    (SIZE, "under 5 mm", "<5"),
    (SIZE, "below five millimeters", "<5"),
    (SIZE, "5-9", "5-9"),
    (SIZE, "5-9 mm", "5-9"),
    (SIZE, "5–9 mm", "5-9"),
    (SIZE, "5 - 9mm", "5-9"),
    (SIZE, "5 to 9 mm", "5-9"),
    (SIZE, "five to nine millimeters", "5-9"),
    (SIZE, "between 5 and 9 mm", "5-9"),
    (SIZE, "between 5 mm and 9 mm", "5-9"),
    (SIZE, "5 mm to 9 mm", "5-9"),
    (SIZE, "5mm-9mm", "5-9"),
    (SIZE, "between five millimetres and nine millimetres", "5-9"),
    (SIZE, ">9", ">9"),
    (SIZE, "> 9 mm", ">9"),
    (SIZE, "more than nine millimetres", ">9"),
    (SIZE, "over 9 mm", ">9"),
    (SIZE, "greater than 9 mm", ">9"),
    (SIZE, "5", None),
    (SIZE, "5 mm", None),
    (SIZE, "1-2 mm", None),
    (SIZE, "<50 mm", None),
    (SIZE, "<5 cm", None),
    (SIZE, "5-9 cm", None),
    (SIZE, ">95 mm", None),
    (SIZE, "<=5 mm", None),
    (SIZE, "≤5 mm", None),
    (SIZE, "15-9 mm", None),
    (SIZE, "5-95 mm", None),
    (SIZE, "<5-9 mm", None),
    (SIZE, "5.5 mm", None),
    (SIZE, "more than 5 mm", None),
    (SIZE, "less than 9 mm", None),
    (SIZE, "not <5 mm", None),
    (SIZE, "<5 mm or 5-9 mm", None),
    (SIZE, "<5 mm, 5-9 mm, >9 mm", None),
    (SIZE, "small", None),
    # histology
    (HISTOLOGY, "adenoma", "adenoma"),
    (HISTOLOGY, "Adenomas", "adenoma"),
    (HISTOLOGY, "adenomatous polyp", "adenoma"),
    (HISTOLOGY, "tubular adenoma", "adenoma"),
    (HISTOLOGY, "Hyperplastic", "hyperplastic"),
    (HISTOLOGY, "a hyperplastic polyp", "hyperplastic"),
    (HISTOLOGY, "sessile serrated lesion", "sessile serrated"),
    (HISTOLOGY, "SSL", "sessile serrated"),
    (HISTOLOGY, "adenocarcinoma", None),
    (HISTOLOGY, "non-adenomatous", None),
    (HISTOLOGY, "hyperplastic or adenoma", None),
    (HISTOLOGY, "Histology corresponds to adenoma. Histology corresponds to hyperplastic.", None),
    (HISTOLOGY, "Inflammatory polyp", None),
    (HISTOLOGY, "Not hyperplastic; adenoma.", "adenoma"),
    # sites
    (SITE, "sigmoid", "sigma"),
    (SITE, "Sigmoid colon", "sigma"),
    (SITE, "The lesion is located in the sigma.", "sigma"),
    (SITE, "caecum", "cecum"),
    (SITE, "descending colon", "descending"),
    (SITE, "ascending", "ascending"),
    (SITE, "transverse", "transverse"),
    (SITE, "hepatic_flexure", "hepatic flexure"),
    (SITE, "right flexure", "hepatic flexure"),
    (SITE, "splenic flexure", "splenic flexure"),
    (SITE, "rectum", "rectum"),
    (SITE, "in the rectum, not the sigma", "rectum"),
    (SITE, "rectum and sigma", None),
    (SITE, "rectosigmoid", None),
    (SITE, "stomach", None),
    (SITE, "flexure", None),
    (SITE, "colon", None),
    # quadrants and directions
    (QUADRANT, "upper right", "upper-right"),
    (QUADRANT, "Upper-Right", "upper-right"),
    (QUADRANT, "upper\u2011right quadrant", "upper-right"),
    (QUADRANT, "top left", "upper-left"),
    (QUADRANT, "the bottom-left quadrant", "lower-left"),
    (QUADRANT, "lower right of the screen", "lower-right"),
    (QUADRANT, "upper", None),
    (QUADRANT, "right", None),
    (QUADRANT, "upper left and lower left", None),
    (QUADRANT, "right upper", None),
    (QUADRANT, "centre", None),
    (DRIFT, "upward", "up"),
    (DRIFT, "The lesion shifts upward across the frames.", "up"),
    (DRIFT, "up", "up"),
    (DRIFT, "downwards", "down"),
    (DRIFT, "It moves to the left", "left"),
    (DRIFT, "toward the right side", "right"),
    (DRIFT, "stable", "stable"),
    (DRIFT, "stationary", "stable"),
    (DRIFT, "no movement", "stable"),
    (DRIFT, "stays stable without noticeable movement", "stable"),
    (DRIFT, "It is stable and does not drift left", "stable"),
    (DRIFT, "up and left", None),
    (DRIFT, "upper left", None),
    (DRIFT, "left flexure", None),
    (DRIFT, "up or down", None),
    (DRIFT, "not left", None),
    (DRIFT, "update", None),
    (DRIFT, "The lesion appears in the upper-left quadrant of the screen.", None),
    # light, fluid, travel
    (LIGHT, "NBI", "NBI"),
    (LIGHT, "nbi", "NBI"),
    (LIGHT, "Narrow-band imaging", "NBI"),
    (LIGHT, "NBI (narrow band imaging)", "NBI"),
    (LIGHT, "White light", "WL"),
    (LIGHT, "not white light but NBI", "NBI"),
    (LIGHT, "NBI and white light", None),
    (LIGHT, "endoluminal light source", None),
    (LIGHT, "Yes, NBI light is on in these frames.", None),
    (FLUID, "completely", "complete"),
    (FLUID, "Fluid occlusion completely obscures the view.", "complete"),
    (FLUID, "partially", "partial"),
    (FLUID, "absent", "absent"),
    (FLUID, "none", "absent"),
    (FLUID, "no fluid", "absent"),
    (FLUID, "incomplete", None),
    (FLUID, "not absent", None),
    (FLUID, "completely clear", None),
    (FLUID, "partial to complete", None),
    (FLUID, "severe", None),
    (FLUID, "none of the above", None),
    (TRAVEL, "Advancing", "advancing"),
    (TRAVEL, "The scope is withdrawing", "withdrawing"),
    (TRAVEL, "moving backward", "withdrawing"),
    (TRAVEL, "pushing forward", "advancing"),
    (TRAVEL, "advancing, then withdrawing", None),
    (TRAVEL, "Yes, the scope is advancing.", None),
    (TRAVEL, "not advancing", None),
    # the refusal is nobody's answer
    (TRAVEL, "This question cannot be answered from this clip.", "unanswerable"),
    (MOVES, "It can't be answered.", "unanswerable"),
    (MOVES, "unanswerable", "unanswerable"),
    (TOOL, "This question cannot be answered from this clip. Forceps.", None),
]


@pytest.fixture(scope="module")
def parser() -> AnswerParser:
    return AnswerParser(load_taxonomy())


def _short(label: Label | None, question_type: str) -> str | None:
    if label is None or label.question_type not in ("", question_type):
        return None
    return label.short


@pytest.mark.parametrize(("question_type", "text", "expected"), CASES)
def test_case(parser: AnswerParser, question_type: str, text: str, expected: str | None) -> None:
    assert _short(parser.parse(text, question_type), question_type) == expected


def test_table_is_large_and_without_repetition() -> None:
    assert len(CASES) >= 150
    assert len({case[:2] for case in CASES}) == len(CASES)


def test_every_gold_form_is_its_own_option_and_no_other_types(parser: AnswerParser) -> None:
    for name, kind in parser.taxonomy.types.items():
        for answer in kind.answers:
            for form in (answer.sentence, answer.short, answer.short.upper() + ".", *answer.synonyms):
                assert parser.parse(form, name) == (name, answer.short), form
            for other in parser.taxonomy.types:
                assert parser.parse(answer.sentence, other) == (name, answer.short), (other, answer.sentence)


def test_naming_two_options_never_counts(parser: AnswerParser) -> None:
    for name, kind in parser.taxonomy.types.items():
        for first, second in permutations(kind.answers, 2):
            for text in (
                f"{first.short} or {second.short}",
                f"{first.short}, {second.short}",
                f"{first.short} and {second.short}",
                f"{first.sentence} {second.sentence}",
                f"{first.sentence} {second.short}",
                f"It is {first.short}. No wait, {second.short}.",
            ):
                label = parser.parse(text, name)
                assert label is None or label.question_type != name, (name, text, label)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60), st.sampled_from(sorted(load_taxonomy().types)))
def test_any_text_parses_to_an_option_or_nothing(parser: AnswerParser, text: str, question_type: str) -> None:
    label = parser.parse(text, question_type)
    assert label is None or label.short in {
        "unanswerable", *(answer.short for answer in parser.taxonomy.type_of(question_type).answers)
    }  # fmt: skip
