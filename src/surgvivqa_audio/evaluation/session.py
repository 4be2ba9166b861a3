"""One evaluation run as it is asked for on the command line: files in, prediction rows out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from surgvivqa_audio.answering.base import System
from surgvivqa_audio.data.stores import open_store
from surgvivqa_audio.data.tables import read_video_info
from surgvivqa_audio.errors import ConfigError, MissingAudio
from surgvivqa_audio.evaluation.controls import check_control, clip_name
from surgvivqa_audio.evaluation.loop import Progress, Settings, Sources, run_eval, select
from surgvivqa_audio.evaluation.reference import REFERENCES, run_reference
from surgvivqa_audio.evaluation.spoken import Speaker
from surgvivqa_audio.files import sha256_bytes
from surgvivqa_audio.sample import Sample, make_key, read_samples
from surgvivqa_audio.scoring.parse import OUT_OF_SCOPE
from surgvivqa_audio.speech.cache import SpeechCache
from surgvivqa_audio.speech.engine import EspeakEngine
from surgvivqa_audio.speech.make import ASSIGNMENTS
from surgvivqa_audio.speech.noise import add_noise
from surgvivqa_audio.taxonomy import Taxonomy

# Another clip and another voice each time. The calibration bank is smaller, and the threshold that refuses
# 93 % of it would rest on a handful of rows.
_CLIPS_PER_QUESTION = {"test": 3, "eval": 8}
ASSUMED_FPS = 25.0  # of a folder without video_info.csv; five of the six annotated procedures have it


@dataclass(frozen=True)
class Request:
    """The options of ``eval run``; paths left out are found in the data folder."""

    data: Path
    system: str
    out: Path
    rows: Path | None = None
    template: str = "out"
    model: Path | None = None
    frames: Path | None = None
    speech: str | None = None
    control: str | None = None
    train: Path | None = None
    limit: int | None = None
    shard: tuple[int, int] = (0, 1)
    batch_size: int = 16
    seed: int = 42
    out_of_scope: str | None = None  # the bank of questions: test, or eval for setting thresholds
    sample: int | None = None  # about so many rows, whole clips of all procedures in turn
    speech_cache: Path | None = None  # what is synthesised is kept here

    @property
    def rows_file(self) -> Path:
        """The annotation rows to ask."""
        return self.rows or self.data / f"{self.template}_template.jsonl"


def run_request(
    request: Request,
    taxonomy: Taxonomy,
    build: Callable[[str], System],
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Carry out one run; ``build`` makes the system by name.

    Raises:
        ConfigError: an option that cannot be right.
        BadAnnotation: the rows cannot be read.
        MissingAudio: no folder of recordings where one is needed.
        MissingFrame: no frames where they are needed.
    """
    check_control(request.control)
    if request.template not in ("in", "out"):
        raise ConfigError(f"--template {request.template}: in or out")
    settings = Settings(
        request.control, request.seed, request.limit, request.shard, request.batch_size, request.sample
    )
    samples = read_samples(request.rows_file, taxonomy)
    train = None if request.train is None else read_samples(request.train, taxonomy)
    files = [request.rows_file, *([request.train] if request.train else [])]
    if request.out_of_scope:
        samples = out_of_scope_samples(samples, taxonomy, request.out_of_scope)
    if request.system in REFERENCES:
        if request.control is not None:
            raise ConfigError(f"{request.system} neither looks nor listens; a control changes nothing")
        chosen = select(samples, settings)
        return run_reference(request.system, chosen, train, taxonomy, request.out, files)
    system = build(request.system)
    with ExitStack() as stack:
        sources = open_sources(request, system, taxonomy, stack)
        facts = {"frames_per_second": frame_rates(request.data, samples), "sentences": _digest(taxonomy)}
        return run_eval(
            samples, system, sources, request.out, settings,
            data_files=files, progress=progress, facts=facts,
        )  # fmt: skip


def _digest(taxonomy: Taxonomy) -> str:
    """Names the order of the sentences that ``log_probs`` follows."""
    return sha256_bytes("\n".join(taxonomy.sentences()).encode())[:16]


def out_of_scope_samples(samples: Sequence[Sample], taxonomy: Taxonomy, bank: str = "test") -> list[Sample]:
    """Every question of a bank (``test`` or ``eval``) that no clip answers, three or eight clips each.

    Raises:
        ConfigError: the taxonomy has no such questions, or there is no such bank.
    """
    if bank not in _CLIPS_PER_QUESTION:
        raise ConfigError(f"out-of-scope bank '{bank}': test or eval")
    questions: tuple[str, ...] = getattr(taxonomy.out_of_scope, bank)
    if not questions:
        raise ConfigError(f"taxonomy {taxonomy.name} has no out-of-scope {bank} questions")
    clips = list({clip_name(sample): sample for sample in samples}.values())
    asked = []
    wanted = _CLIPS_PER_QUESTION[bank] * questions
    for number, question in enumerate(wanted):
        clip = clips[number * len(clips) // len(wanted)]
        name = f"{OUT_OF_SCOPE}-{number:03d}"
        update = {
            "key": make_key(clip.template, clip.video_id, clip.first_frame, name), "id": name,
            "question": question, "question_type": OUT_OF_SCOPE,
            "answer": taxonomy.refusal.sentence, "short_answer": taxonomy.refusal.short,
        }  # fmt: skip
        asked.append(clip.model_copy(update=update))
    return asked


def open_sources(request: Request, system: System, taxonomy: Taxonomy, stack: ExitStack) -> Sources:
    """Frames, sound and wordings as far as the system needs them; closed with ``stack``."""
    sources = Sources(rate=clip_rate(request.data), add_noise=add_noise)
    if "frames" in system.needs:
        sources = replace(sources, store=open_store(request.frames or request.data / "frames"))
    spoken_here = request.speech == "espeak" or request.out_of_scope is not None
    recordings = None if spoken_here else Path(request.speech or request.data / "speech")
    recorded = recordings is not None and (recordings / ASSIGNMENTS).is_file()
    if "audio" in system.needs or request.control == "phrasing" or recorded:
        if "audio" in system.needs and recordings is not None and not recordings.is_dir():
            raise MissingAudio(
                f"{recordings}: no such folder of recordings; run `surgvivqa speech make`, or pass "
                "--speech espeak to synthesise the questions on the fly"
            )
        engine = stack.enter_context(EspeakEngine())
        folder = request.speech_cache
        cache = None if folder is None else stack.enter_context(SpeechCache(folder, engine))
        speaker = Speaker(taxonomy, engine, recordings, request.seed, cache)
        sources = replace(sources, speak=speaker.speak, wording=speaker.wording)
    return sources


def frame_rates(data: Path, samples: Sequence[Sample]) -> dict[str, Any]:
    """For the run record: the table that holds the rates, and for how many procedures one is assumed."""
    table = data / "video_info.csv"
    known = read_video_info(table).keys() if table.is_file() else ()
    assumed = {sample.video_id for sample in samples} - set(known)
    found: dict[str, Any] = {"table": table.name if known else None, "assumed_for_procedures": len(assumed)}
    return found | ({"assumed": ASSUMED_FPS} if assumed else {})


def clip_rate(data: Path) -> Callable[[Sample], float]:
    """Frames per second of a sample's clip: the rate of its procedure over the stride of its frames."""
    table = data / "video_info.csv"
    known = {name: info.fps for name, info in read_video_info(table).items()} if table.is_file() else {}

    def rate(sample: Sample) -> float:
        numbers = sample.frame_numbers
        stride = (numbers[-1] - numbers[0]) / (len(numbers) - 1) if len(numbers) > 1 else 1.0
        return known.get(sample.video_id, ASSUMED_FPS) / max(stride, 1.0)

    return rate
