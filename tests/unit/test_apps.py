"""Logic of the demo without a page: uploads, visits, export, measured figures, flipbook, launcher."""

from __future__ import annotations

import base64
import io
import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import PIL.Image
import pytest

from surgvivqa_audio.answering.base import Answer, Option
from surgvivqa_audio.apps import capability, cases, flipbook, serve, uploads, viewing
from surgvivqa_audio.apps.cases import ClipView, DataCases, SimCases
from surgvivqa_audio.apps.demo_answer import answer_html, known, measured_html, options_html
from surgvivqa_audio.apps.export import visit_html, visit_json
from surgvivqa_audio.apps.serve import Settings
from surgvivqa_audio.apps.tables import table_html
from surgvivqa_audio.apps.uploads import Upload
from surgvivqa_audio.apps.visit import Visit, explanation, headline, percentile, type_label, verdict
from surgvivqa_audio.colonsim import make_dataset
from surgvivqa_audio.errors import BadAudio, BadImage, ConfigError, MissingFrame, SurgVivqaError
from surgvivqa_audio.processing.video import Geometry
from surgvivqa_audio.sample import Image
from surgvivqa_audio.speech.audio import is_silent, wav_bytes
from surgvivqa_audio.taxonomy import Taxonomy
from tiny_graft import tone

Frames = Callable[..., list[Image]]
TIMES = {"open_clip": 5.0, "audio": 1.0, "answer": 9.0, "total": 10.0}


def _jpeg(frame: Image) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(frame).save(stream, format="JPEG")
    return stream.getvalue()


def _pictures(frames: list[Image]) -> list[Upload]:
    return [Upload(f"x_{4 * at}.jpg", _jpeg(frame)) for at, frame in enumerate(frames)]


def _video(frames: list[Image]) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        track = container.add_stream("mpeg4", rate=25, width=64, height=64, pix_fmt="yuv420p")
        for frame in frames:
            container.mux(track.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(track.encode(None))
    return stream.getvalue()


def _answer(taxonomy: Taxonomy, short: str = "yes", reason: str = "") -> Answer:
    kind = taxonomy.types["scope_motion"]
    options = tuple(
        Option(one.short, one.sentence, kind.name, 0.9 if one.short == short else 0.1) for one in kind.answers
    )
    options = tuple(sorted(options, key=lambda option: -option.probability))
    said = taxonomy.refusal.sentence if reason else options[0].sentence
    return Answer(said, short, kind.name, 0.9, bool(reason), options, TIMES, "fake", reason)


class _OpenFake:
    open_ms = 5.0

    def __init__(self, taxonomy: Taxonomy) -> None:
        self.taxonomy = taxonomy
        self.heard: list[Any] = []

    def ask(self, audio: Any = None, text: Any = None, mode: str = "audio") -> Answer:
        assert mode == ("text" if text else "audio")
        self.heard.append(audio)
        if audio is not None and is_silent(audio):
            return Answer("none", "none", "", 1.0, True, (), TIMES, "fake", "silence")
        return _answer(self.taxonomy)


class _Fake:
    name = "fake"

    def __init__(self, taxonomy: Taxonomy) -> None:
        self.taxonomy = taxonomy
        self.opened: list[tuple[list[Image], float]] = []

    def open(self, frames: list[Image], fps: float) -> _OpenFake:
        self.opened.append((frames, fps))
        return _OpenFake(self.taxonomy)


@pytest.fixture
def clip(make_frames: Frames) -> ClipView:
    numbers = tuple(range(100, 132, 4))
    return ClipView(
        "patient, clip 1", "data", tuple(make_frames(8, 64)), numbers, 6.25, {"scope_motion": "no"}
    )


@pytest.fixture
def visit(taxonomy: Taxonomy, clip: ClipView) -> Visit:
    visit = Visit(_Fake(taxonomy))  # type: ignore[arg-type]
    visit.show(clip)
    return visit


def test_eight_images_come_in_numeric_order(make_frames: Frames) -> None:
    files = _pictures(make_frames(8, 64))
    clip = uploads.read_clip(files[::-1], stride=4, fps=25.0)
    assert clip.numbers == (0, 4, 8, 12, 16, 20, 24, 28)
    assert (clip.fps, clip.source, clip.truth) == (6.25, "own", {})


def test_video_gives_the_middle_frames(make_frames: Frames) -> None:
    clip = uploads.read_clip([Upload("my video.MP4", _video(make_frames(37, 64)))], stride=4)
    assert clip.numbers == (4, 8, 12, 16, 20, 24, 28, 32)
    assert (clip.title, clip.fps, clip.frames[0].shape) == ("my video.MP4", 6.25, (64, 64, 3))


@pytest.mark.parametrize(
    ("names", "content", "error", "text"),
    [
        (["notes.pdf"], b"%PDF", BadImage, "notes.pdf: neither an image nor a video"),
        (["list.m3u8"], b"#EXTM3U", BadImage, "list.m3u8: neither an image nor a video"),
        (["v.mp4"], b"", BadImage, "v.mp4: the file is empty"),
        (["v.mp4"], b"#EXTM3U\n/etc/passwd\n", BadImage, "v.mp4: cannot be read as a video"),
        (["a1.jpg"], b"\xff\xd8\xff", MissingFrame, "1 images; a clip is exactly 8"),
        (["v.mp4", "a1.jpg"], b"x", MissingFrame, "2 files; upload one video"),
        ([f"{n}.jpg" for n in range(8)], b"GIF89a", BadImage, "0.jpg: the content is neither JPEG nor PNG"),
        (["a.jpg"] * 8, b"\xff\xd8\xff", MissingFrame, "a.jpg: the name holds no number"),
        (["a1.jpg"] * 8, b"\xff\xd8\xff", MissingFrame, "a1.jpg: a1.jpg has the same number"),
    ],
)
def test_wrong_clips_are_refused(
    names: list[str], content: bytes, error: type[SurgVivqaError], text: str
) -> None:
    with pytest.raises(error) as caught:
        uploads.read_clip([Upload(name, content) for name in names])
    assert str(caught.value).startswith(text)
    assert "surgvivqa-" not in str(caught.value)  # no path of this machine


def test_too_large_an_upload_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_UPLOAD_MB", 0)
    with pytest.raises(BadImage, match="larger than 0 MB"):
        uploads.read_clip([Upload("v.mp4", b"x")])
    with pytest.raises(BadAudio, match="larger than 0 MB"):
        uploads.read_question(Upload("q.wav", b"x"))


def test_questions_are_sound_files_with_sound(make_frames: Frames) -> None:
    assert uploads.read_question(Upload("q.wav", wav_bytes(tone(0.5)))).shape == (8000,)
    with pytest.raises(BadAudio, match=r"q\.jpg: not a sound file; upload WAV"):
        uploads.read_question(Upload("q.jpg", b"x"))
    with pytest.raises(BadAudio, match=r"q\.wav: not a known audio format"):
        uploads.read_question(Upload("q.wav", _jpeg(make_frames(1, 64)[0])))


def test_the_model_gets_the_frames_that_are_shown(visit: Visit, clip: ClipView) -> None:
    frames, fps = visit.engine.opened[0]  # type: ignore[attr-defined]
    assert fps == 6.25
    assert all(one is other for one, other in zip(frames, clip.frames, strict=True))
    assert flipbook.captions(clip)[:2] == ["1/8 · frame 100 · 0.00 s", "2/8 · frame 104 · 0.16 s"]
    processor: Any = SimpleNamespace(geometry=Geometry(patch=14, merge=2, temporal=2, max_side=64))
    pixels = flipbook.model_frames(clip, processor)
    assert {frame.shape for frame in pixels} == {(56, 56, 3)}


def test_flipbook_holds_every_frame_and_loads_nothing(clip: ClipView) -> None:
    html = flipbook.flipbook_html(list(clip.frames), ["</script>"] * 8, dark=True, lossless=True)
    assert html.count("data:image/png;base64,") == 8
    assert 'data-theme="dark"' in html
    assert html.count("</script>") == 1
    assert 'class="pixels"' in html
    assert "http" not in html
    assert 'min="1" max="10" step="1" value="2"' in html
    first = html.split("data:image/png;base64,")[1].split('"')[0]
    decoded = PIL.Image.open(io.BytesIO(base64.b64decode(first)))
    assert np.array_equal(np.asarray(decoded), clip.frames[0])


def test_a_free_question_is_judged_after_the_visitor_said_it_was_understood(
    visit: Visit, taxonomy: Taxonomy
) -> None:
    free = visit.ask("microphone", tone(0.5))
    assert (free.judged_type, free.understood(), free.correct(), free.recording) == (
        "scope_motion",
        None,
        None,
        b"",
    )
    assert verdict(free, taxonomy) == (
        "Ground truth for “Scope motion”: No, the scope is not moving in these frames. "
        "The answer does not agree with it. Was that your question?"
    )
    visit.confirm(free.number, True)
    assert visit.cards[0].correct() is False
    assert verdict(visit.cards[0], taxonomy).endswith("The answer is wrong.")


def test_a_misheard_question_is_never_right(visit: Visit, clip: ClipView, taxonomy: Taxonomy) -> None:
    truth = {"scope_motion": "yes", "occlusion_check": "yes"}
    visit.show(replace(clip, truth=truth))
    free = visit.ask("microphone", tone(0.5))  # the fake answers "scope motion: yes" to everything
    assert "agrees with it. Was that your question?" in verdict(free, taxonomy)
    visit.confirm(free.number, False)
    assert visit.cards[-1].correct() is False
    assert verdict(visit.cards[-1], taxonomy) == (
        "Wrong, because the question was misunderstood: the model understood “Scope motion”."
    )
    visit.confirm(free.number, True)
    assert visit.cards[-1].correct() is True
    posed = visit.ask("voice", tone(0.5), "Is the lens dirty?", "occlusion_check")
    assert (posed.judged_type, posed.understood(), posed.correct()) == ("occlusion_check", False, False)
    assert verdict(posed, taxonomy) == (
        "Wrong, because the question was misunderstood: the model understood “Scope motion”. You asked about "
        "“Occlusion check”. Ground truth for “Occlusion check”: Yes, a close-up obstruction blocks the view."
    )


def test_what_cannot_be_judged_is_said(visit: Visit, clip: ClipView, taxonomy: Taxonomy) -> None:
    posed = visit.ask("voice", tone(0.5), "Where is the lesion?", "lesion_site")
    assert posed.correct() is None
    assert verdict(posed, taxonomy) == "The ground truth of this clip says nothing about “Lesion site”."
    silent = visit.ask("microphone", np.zeros(8000, np.float32))
    assert headline(silent.answer) == "No question heard."
    assert verdict(silent, taxonomy) == "No question was heard, so there is nothing to judge."
    visit.show(replace(clip, truth={}))
    assert visit.current() is None
    own = visit.ask("microphone", tone(0.5))
    assert verdict(own, taxonomy) == "Nobody has told the ground truth of this clip."
    assert [card.number for card in visit.cards] == [1, 2, 3]
    assert visit.current() is own


def test_questions_without_clip_words_or_sound_are_refused(taxonomy: Taxonomy, visit: Visit) -> None:
    with pytest.raises(ConfigError, match="no clip is open"):
        Visit(_Fake(taxonomy)).ask("typed", question="x")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="1 to 300 characters"):
        visit.ask("typed", question="  ")
    with pytest.raises(ConfigError, match="no recording"):
        visit.ask("microphone")
    assert visit.cards == []


def test_words_of_an_abstention(taxonomy: Taxonomy) -> None:
    assert explanation(_answer(taxonomy), taxonomy) == (
        "Understood as: Scope motion, “Is the scope actively moving throughout this clip?”"
    )
    assert "has only 90 %." in explanation(_answer(taxonomy, reason="uncertain"), taxonomy)
    assert "cannot answer" in explanation(_answer(taxonomy, reason="refused"), taxonomy)
    assert type_label("nbi_status") == "NBI status"


def test_live_figures(visit: Visit) -> None:
    assert visit.performance()["answer_p50"] is None
    visit.ask("microphone", np.zeros(8000, np.float32))
    assert (visit.performance()["questions"], visit.performance()["answer_p50"]) == (1, None)
    visit.ask("microphone", tone(0.5))
    figures = visit.performance()
    assert (figures["questions"], figures["clips"], figures["answer_p95"], figures["open_p50"]) == (
        2,
        1,
        10.0,
        5.0,
    )
    assert [percentile([4.0, 1.0, 3.0, 2.0], share) for share in (0.5, 0.95)] == [2.0, 4.0]


def test_export_holds_answers_and_no_sound_unless_asked(visit: Visit) -> None:
    visit.ask("microphone", tone(0.5))
    visit.ask("typed", question="<b>moving?</b>")
    document = json.loads(visit_json(visit))
    assert document["notice"] == "Research only, not for clinical use."
    assert [row["question"] for row in document["questions"]] == [None, "<b>moving?</b>"]
    assert document["questions"][0]["ground_truth"] == {
        "type": "scope_motion",
        "truth": "no",
        "question_understood": None,
        "correct": None,
    }
    assert not any("recording_wav_base64" in row for row in document["questions"])
    assert "&lt;b&gt;moving?" in visit_html(visit)
    assert "Ground truth: no (not judged: was that the question?)" in visit_html(visit)
    visit.confirm(1, True)
    assert json.loads(visit_json(visit))["questions"][0]["ground_truth"]["correct"] is False
    assert "<audio" not in visit_html(visit)
    visit.keep_recordings = True
    visit.ask("microphone", tone(0.5))
    assert visit_html(visit).count("<audio") == 1


def test_figures_come_from_the_report_or_are_missing(tmp_path: Path, visit: Visit) -> None:
    card = visit.ask("microphone", tone(0.5))
    assert "Not measured: this model comes without an evaluation report." in measured_html(card, None)
    entry = {"rows": 40, "closed_set": 0.8, "floor": 0.55, "ci95": [0.65, 0.9], "balanced": 0.8}
    report = {"main": "a", "simulated": True, "runs": {"a": {"by_type": {"scope_motion": entry}}}}
    path = tmp_path / "report" / "report.json"
    path.parent.mkdir()
    path.write_text(json.dumps(report))
    assert capability.find("report.json", [None, tmp_path]) == path
    profile = capability.read_profile(path)
    html = measured_html(card, profile)
    assert re.findall(r'class="value">(.*?)</td>', html) == ["80 %", "55 %"]
    measured = (
        "Scope motion: 40 questions about simulated ColonSim clips, 95&nbsp;% interval 65 to 90&nbsp;%."
    )
    assert measured in html
    assert "no figure for this kind" in measured_html(card, replace(profile, by_type={}))
    path.write_text("{}")
    with pytest.raises(ConfigError, match="not a report of"):
        capability.read_profile(path)


def test_answer_markup_escapes_and_lists_all_options(visit: Visit) -> None:
    card = visit.ask("microphone", tone(0.5))
    assert "confidence 90 %" in answer_html(card, "<why>")
    assert "&lt;why&gt;" in answer_html(card, "<why>")
    assert options_html(card).count("<tr") == 2
    assert known(card, visit.engine.taxonomy) == [
        ("Scope motion", "No, the scope is not moving in these frames.")
    ]


def test_simulated_patients_answer_the_filter() -> None:
    source = SimCases()
    found = source.cases("sim-77000001", "lesion_site")
    assert found
    assert all("lesion_site" in case.truth for case in found)
    assert len(source.cases("sim-77000001")) == 28
    name = source.new_patient(random.Random(1))
    assert source.procedures() == ["sim-77000001", name]
    with pytest.raises(ConfigError, match="no simulated patient sim-1"):
        source.cases("sim-1")


def test_the_viewer_page_of_a_patient_and_of_a_folder(
    tmp_path: Path, taxonomy: Taxonomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewing, "SIDE", 32)
    monkeypatch.setattr(viewing, "CLIPS", 1)
    page = viewing.patient_page(SimCases(), taxonomy, "sim-77000001")
    assert page.startswith("<!doctype html>")
    assert page.count("data:image/jpeg;base64,") == 8
    make_dataset(tmp_path / "data", 1, 1, 5, 32, 8)
    (name,) = DataCases(tmp_path / "data", taxonomy).procedures()
    assert viewing.rows_page(tmp_path / "data", taxonomy, "", name).count("data:image/jpeg;base64,") == 8
    with pytest.raises(ConfigError, match="no rows of video sim-1"):
        viewing.rows_page(tmp_path / "data", taxonomy, "", "sim-1")


def test_data_folder_gives_clips_with_truth(tmp_path: Path, taxonomy: Taxonomy) -> None:
    make_dataset(tmp_path / "data", 1, 1, 5, 32, 8)
    source = DataCases(tmp_path / "data", taxonomy)
    first = source.cases(source.procedures()[0])[0]
    clip = source.load(first)
    assert (len(clip.frames), clip.fps, clip.truth) == (8, 6.25, first.truth)
    assert clip.numbers[0] == first.first_frame
    with pytest.raises(ConfigError, match=r"no test\.jsonl"):
        DataCases(tmp_path / "data", taxonomy, "test")


def test_other_hosts_need_a_token_and_are_warned() -> None:
    assert serve.check(Settings()) == []
    with pytest.raises(ConfigError, match=r"--host 0\.0\.0\.0 can be reached by others: set --token"):
        serve.check(Settings(host="0.0.0.0", token="short"))
    warnings = serve.check(Settings(host="0.0.0.0", token="0123456789abcdef"))
    assert any("HTTPS" in line for line in warnings)
    with pytest.raises(ConfigError, match="name both"):
        serve.check(Settings(), Path("cert.pem"))
    assert serve.admits(Settings(), "")
    assert not serve.admits(Settings(token="0123456789abcdef"), "0123456789abcdeF")


def test_tables_escape_and_set_numbers_right() -> None:
    made = table_html([("a<b", 3), ("c", "d & e")], ("name", "n"))
    assert made == (
        '<table class="sv-table"><thead><tr><th scope="col">name</th><th scope="col">n</th></tr></thead>'
        '<tbody><tr><th scope="row">a&lt;b</th><td class="number">3</td></tr>'
        '<tr><th scope="row">c</th><td>d &amp; e</td></tr></tbody></table>'
    )
    assert "<thead>" not in table_html([("a", 1)])


def test_server_is_told_no_telemetry_and_no_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(token="0123456789abcdef", port=9000)
    told = serve.options(settings)
    assert told["browser.gatherUsageStats"] is False
    assert (told["server.address"], told["server.port"]) == ("127.0.0.1", 9000)
    assert settings.token not in told.values()
    monkeypatch.setenv(serve.VARIABLE, serve.environment(settings)[serve.VARIABLE])
    assert serve.read_settings() == settings
    monkeypatch.setenv(serve.VARIABLE, '{"colour": 1}')
    with pytest.raises(ConfigError, match="not settings of the demo"):
        serve.read_settings()


def test_fresh_seeds_are_far_from_training() -> None:
    assert cases.FIRST_SEED == 77_000_001
