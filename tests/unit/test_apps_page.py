"""The page as a visitor uses it, without a browser: widgets in, text out."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from streamlit.testing.v1 import AppTest

import surgvivqa_audio
from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.apps import demo_page, shared
from surgvivqa_audio.apps.cases import SimCases
from surgvivqa_audio.apps.visit import verdict
from surgvivqa_audio.speech.audio import wav_bytes
from surgvivqa_audio.taxonomy import load_taxonomy
from tiny_graft import nano_graft, nano_processor, tone

PAGE = Path(surgvivqa_audio.__file__).parent / "apps" / "demo_page.py"


@cache
def _engine() -> AnswerEngine:
    processor = nano_processor()
    return AnswerEngine(nano_graft(processor), processor, load_taxonomy(), name="tiny")


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setattr(shared, "engine", lambda folder: _engine())
    monkeypatch.setattr("surgvivqa_audio.apps.cases.SIDE", 48)
    monkeypatch.setenv("SURGVIVQA_DEMO", '{"model": "tiny"}')
    return _clean(AppTest.from_file(PAGE, default_timeout=60).run())


def _clean(page: AppTest) -> AppTest:
    assert [one.value for one in page.exception] == []
    return page


def _press(page: AppTest, label: str) -> AppTest:
    return _clean(next(button for button in page.button if button.label == label).click().run())


def _texts(page: AppTest) -> str:
    return "\n".join(str(one.proto.body) for one in page.get("html"))


def _way(page: AppTest, way: str) -> AppTest:
    return _clean(page.radio[0].set_value(way).run())


def _upload(page: AppTest, name: str, content: bytes, kind: str) -> AppTest:
    sound = next(one for one in page.file_uploader if one.label.startswith("Recording"))
    return _clean(sound.set_value([(name, content, kind)]).run())


def test_first_page_shows_a_clip_and_says_research_only(page: AppTest) -> None:
    assert "Research only, not for clinical use." in _texts(page)
    assert page.subheader[1].value == "Ask"
    assert page.session_state.visit.clip.title == "sim-77000001, clip 1"
    assert "Exactly the 8 frames the model received, in order, at 6.25 per second." in [
        one.value for one in page.caption
    ]


def test_typed_question_is_answered_and_counted(page: AppTest) -> None:
    _way(page, "typed")
    page.text_input[0].set_value("Is a tool visible?")
    _press(page, "Ask in writing")
    card = page.session_state.visit.cards[0]
    assert (card.number, card.way, card.question, card.recording) == (1, "typed", "Is a tool visible?", b"")
    assert card.answer.answer in _texts(page)
    assert any(one.value.startswith("Typed, not spoken.") for one in page.caption)
    _press(page, "Random case")
    assert len(page.session_state.visit.cards) == 1


def test_uploaded_recording_is_answered_once(page: AppTest) -> None:
    _way(page, "upload")
    _upload(page, "q.wav", wav_bytes(tone(1.0)), "audio/wav")
    _clean(page.run())
    assert [card.way for card in page.session_state.visit.cards] == ["upload"]


def test_silence_and_wrong_files_are_said_in_plain_words(page: AppTest) -> None:
    _way(page, "upload")
    _upload(page, "q.wav", wav_bytes(np.zeros(16_000, np.float32)), "audio/wav")
    assert "No question heard." in _texts(page)
    _upload(page, "notes.pdf", b"%PDF-1.7", "application/pdf")
    _clean(page.run())  # the message stays as long as the file does
    assert [one.value for one in page.error] == [
        "notes.pdf: not a sound file; upload WAV, FLAC, OGG, MP3, WEBM, M4A"
    ]


def test_microphone_is_answered(page: AppTest) -> None:
    _clean(page.get("audio_input")[0].set_value(("mic.wav", wav_bytes(tone(1.0)), "audio/wav")).run())
    assert [card.way for card in page.session_state.visit.cards] == ["microphone"]


def test_filter_new_patient_and_truth(page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "speak", lambda text, voice: tone(1.0))
    _clean(page.selectbox(key="type").set_value("lesion_site").run())
    assert "lesion_site" in page.session_state.visit.clip.truth
    _press(page, "New patient")
    assert page.session_state.visit.clip.title.startswith(page.session_state.procedure)
    assert page.session_state.procedure != "sim-77000001"
    _way(page, "voice")
    _clean(page.selectbox(key="voice_type").set_value("lesion_site").run())
    _press(page, "Speak and ask")
    card = page.session_state.visit.cards[0]
    assert (card.way, card.asked_type) == ("voice", "lesion_site")
    _clean(page.toggle(key="truth").set_value(True).run())
    shown = [one.value for one in [*page.success, *page.error]]
    assert shown == [verdict(card, load_taxonomy())]
    assert not any(button.label == "Yes, I asked that" for button in page.button)


def test_a_free_question_is_confirmed_by_the_visitor(page: AppTest) -> None:
    _way(page, "typed")
    page.text_input[0].set_value("Is a tool visible?")
    _press(page, "Ask in writing")
    visit = page.session_state.visit
    kind = visit.cards[0].judged_type or "scope_motion"
    # The tiny model's weights are random, so the truth is made to hold whatever it understood.
    visit.cards[0] = replace(
        visit.cards[0],
        truth={kind: visit.cards[0].answer.short_answer},
        answer=replace(visit.cards[0].answer, question_type=kind, abstained=False),
    )
    _clean(page.toggle(key="truth").set_value(True).run())
    assert [len(page.success), len(page.error)] == [0, 0]
    _press(page, "No, something else")
    assert page.error[0].value.startswith("Wrong, because the question was misunderstood")
    _press(page, "Yes, I asked that")
    assert page.success[0].value.endswith("The answer is right.")


def test_a_damaged_report_does_not_keep_anybody_from_asking(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shared, "engine", lambda folder: _engine())
    monkeypatch.setattr("surgvivqa_audio.apps.cases.SIDE", 48)
    (tmp_path / "report.json").write_text("{}")
    monkeypatch.setenv("SURGVIVQA_DEMO", f'{{"model": "tiny", "report": "{tmp_path}"}}')
    page = _clean(AppTest.from_file(PAGE, default_timeout=60).run())
    assert [one.value.split(":")[0] for one in page.error] == [str(tmp_path / "report.json")]
    assert page.session_state.visit.clip is not None


def test_own_images_become_the_clip_and_the_list_takes_it_back(page: AppTest) -> None:
    files = []
    for at in range(8):
        stream = io.BytesIO()
        PIL.Image.new("RGB", (64, 48), (20 * at, 90, 90)).save(stream, format="JPEG")
        files.append((f"{at}.jpg", stream.getvalue(), "image/jpeg"))
    own = next(one for one in page.file_uploader if one.label == "Video or images")
    _clean(own.set_value(files).run())
    _press(page, "Open this clip")
    assert page.session_state.visit.clip.title == "8 uploaded images"
    assert page.session_state.visit.clip.frames[0].shape == (48, 64, 3)
    _press(page, "Back to the listed clip")
    assert page.session_state.visit.clip.title == "sim-77000001, clip 1"
    assert "Back to the listed clip" not in [button.label for button in page.button]


def test_two_visitors_do_not_share_clips(page: AppTest) -> None:
    other = _clean(AppTest.from_file(PAGE, default_timeout=60).run())
    _press(other, "New patient")
    assert other.session_state.visit is not page.session_state.visit
    assert page.session_state.visit.clip.title == "sim-77000001, clip 1"
    assert _clean(page.run()).session_state.cases.procedures() == ["sim-77000001"]


def test_token_is_asked_for_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(folder: str) -> Any:
        raise AssertionError("the model was loaded for a stranger")

    monkeypatch.setattr(shared, "engine", never)
    monkeypatch.setenv("SURGVIVQA_DEMO", '{"token": "0123456789abcdef"}')
    page = _clean(AppTest.from_file(PAGE, default_timeout=60).run())
    _clean(page.text_input[0].set_value("wrong").run())
    assert [one.value for one in page.error] == ["That is not the token of this server."]
    assert "visit" not in page.session_state


def test_missing_model_is_one_plain_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SURGVIVQA_DEMO", f'{{"model": "{tmp_path}"}}')
    page = _clean(AppTest.from_file(PAGE, default_timeout=60).run())
    assert len(page.error) == 1
    assert str(tmp_path) in page.error[0].value


def test_sources_of_the_page_are_the_documented_ones() -> None:
    assert demo_page.NOTICE == "Research only, not for clinical use."
    assert SimCases().procedures() == ["sim-77000001"]


def test_first_paint_waits_for_no_library_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(folder: str) -> Any:
        raise AssertionError("the model was loaded before the first paint")

    monkeypatch.setenv("SURGVIVQA_DEMO", '{"model": "tiny"}')
    monkeypatch.setattr("surgvivqa_audio.apps.cases.SIDE", 48)
    with monkeypatch.context() as cold:
        cold.setattr(shared, "engine", never)
        cold.delitem(sys.modules, "torch")  # as in a server that nobody visited yet
        page = _clean(AppTest.from_file(PAGE, default_timeout=60).run())
    assert "Warming up the model" in _texts(page)
    assert "visit" not in page.session_state
    monkeypatch.setattr(shared, "engine", lambda folder: _engine())
    _clean(page.run())
    assert page.session_state.visit.clip.title == "sim-77000001, clip 1"
    assert "Warming up the model" not in _texts(page)


def test_an_answer_is_counted_in_the_sidebar(page: AppTest) -> None:
    assert 'class="figure">–<' in _texts(page)
    _way(page, "typed")
    page.text_input[0].set_value("Is a tool visible?")
    _press(page, "Ask in writing")
    assert 'class="figure">–<' not in _texts(page)
    assert any(one.value.startswith("Questions: 1, clips: 1.") for one in page.caption)
