"""The recipe of alignment on a corpus, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.evaluation.asr import Transcript, drawn, error_rates
from surgvivqa_audio.speech.audio import write_wav
from surgvivqa_audio.speech.corpora import Recording
from surgvivqa_audio.speech.transcripts import compare
from surgvivqa_audio.training.recipe import read_recipe
from surgvivqa_audio.training.transcription import CorpusKeys, TranscribeRecipe, recipe_recordings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "parts", "rate"), [("align-2x24gb", "projector", 1e-3), ("transcribe-2x24gb", "lora", 2e-4)]
)
def test_the_shipped_recipes_say_what_they_promise(name: str, parts: str, rate: float) -> None:
    recipe = read_recipe(ROOT / "recipes" / f"{name}.yaml")
    assert isinstance(recipe, TranscribeRecipe)
    assert (recipe.tune.parts, recipe.trainer.learning_rate, recipe.corpus.utterances) == (
        parts,
        rate,
        20_000,
    )
    assert recipe.trainer.effective_batch == 32
    assert recipe.prompt.stack == 4


def test_the_second_run_starts_from_the_first() -> None:
    recipe = read_recipe(ROOT / "recipes" / "transcribe-2x24gb.yaml")
    assert isinstance(recipe, TranscribeRecipe)
    assert (recipe.model, recipe.tune.quantise, recipe.tune.lora_rank) == (
        "runs/align-2x24gb/model",
        "nf4",
        64,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": {"layout": "seed"}}, "prompt.layout seed is imported, already aligned"),
        ({"corpus": {"train": "a"}}, "corpus.eval"),
        ({"tune": {"parts": "full", "quantise": "nf4"}}, "nf4 cannot be trained in full"),
        ({"audio": 1}, "'audio'"),
    ],
)
def test_recipes_that_cannot_be(tmp_path: Path, change: dict[str, object], message: str) -> None:
    fields = {"stage": "transcribe", "corpus": {"train": "a", "eval": "b"}, **change}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(fields))
    with pytest.raises(ConfigError, match=message):
        read_recipe(tmp_path / "r.yaml")


def _corpus(folder: Path, count: int) -> Path:
    import numpy as np

    rows = []
    for number in range(count):
        write_wav(folder / f"{number}.wav", 0.1 * np.ones(8_000 * (1 + number), np.float32))
        rows.append(f'{{"path": "{number}.wav", "text": "word {number}"}}\n')
    (folder / "list.jsonl").write_text("".join(rows))
    return folder / "list.jsonl"


def test_recordings_are_drawn_without_the_long_ones(tmp_path: Path) -> None:
    train, held = _corpus(tmp_path / "a", 4), _corpus(tmp_path / "b", 2)
    keys = CorpusKeys(train=str(train), eval=str(held), utterances=0, eval_utterances=1, max_seconds=1.5)
    first, second, skipped = recipe_recordings(keys, seed=0)
    assert sorted(each.text for each in first) == ["word 0", "word 1", "word 2"]
    assert (len(second), skipped) == (1, 1)
    with pytest.raises(ConfigError, match="are trained on too"):
        recipe_recordings(keys.model_copy(update={"eval": str(train)}), seed=0)


def _row(said: str, heard: str, speaker: str = "") -> Transcript:
    return Transcript(Recording(Path("a.wav"), said, speaker, "list:1"), heard, compare(said, heard))


def test_error_rates_with_interval_and_n() -> None:
    rows = [_row("one two three four", "one two three four", "a"), _row("five six", "five", "b")]
    found = error_rates(rows)
    assert (found["recordings"], found["words"], found["wer"]) == (2, 6, pytest.approx(1 / 6))
    assert (found["interval_over"], found["wer_ci95"]) == ("speakers", [0.0, 0.5])
    assert error_rates([_row("a b", "a", "a"), _row("a", "a")])["interval_over"] == "recordings"
    with pytest.raises(ConfigError, match="no transcript of the corpus holds a word"):
        error_rates([_row("...", "a")])


def test_a_limited_evaluation_draws_over_the_whole_corpus() -> None:
    listed = [Recording(Path(f"{number}.wav"), "a", "", "") for number in range(100)]
    some = [int(each.path.stem) for each in drawn(listed, 10, 42)]
    assert some == sorted(some)
    assert max(some) > 50
    assert drawn(listed, None, 42) == listed
