"""What the tiny Whisper is trained and tested on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.processing.features import log_mel, make_feature_extractor
from surgvivqa_audio.speech.engine import HELD_OUT_VOICES, Voice
from surgvivqa_audio.speech.phrasing import phrasing_bank, words
from surgvivqa_audio.taxonomy import load_taxonomy
from surgvivqa_audio.training.asr_data import (
    CTC_ALPHABET,
    AugmentConfig,
    Batcher,
    Pool,
    PoolConfig,
    Utterance,
    _noise_piece,
    augment,
    by_length,
    ctc_labels,
    make_pool,
    other_speaker,
    plan_pool,
    training_voice_names,
)
from surgvivqa_audio.training.asr_eval import EvalConfig, plan_sets
from surgvivqa_audio.training.nano_tokenizer import common_words
from surgvivqa_audio.training.utterances import _nothing


def _noise(size: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)


def test_the_pool_holds_training_material_only() -> None:
    taxonomy = load_taxonomy()
    bank = phrasing_bank(taxonomy)
    plan = plan_pool(PoolConfig(utterances=4000), taxonomy, bank, common_words())
    assert len(plan) == 4000
    held_out = {words(text) for split in bank.values() for text in (*split.held_out, *split.new_words)}
    published = {
        words(kind.out_template) for kind in taxonomy.types.values() if kind.out_template != kind.in_template
    }
    refused = {words(text) for text in taxonomy.out_of_scope.test}
    said = {words(utterance.text) for utterance in plan}
    assert not said & (held_out | published | refused)
    assert {words(text) for text in taxonomy.out_of_scope.train} & said
    names = {voice.name for voice in HELD_OUT_VOICES}
    assert not {utterance.voice.name for utterance in plan} & names
    assert all(130 <= utterance.voice.rate <= 200 for utterance in plan)
    assert plan == plan_pool(PoolConfig(utterances=4000), taxonomy, bank, common_words())


def test_held_out_accents_and_variants_are_refused() -> None:
    names = training_voice_names(PoolConfig())
    assert "en-us+f2" in names
    assert len(names) == 232
    with pytest.raises(ConfigError, match="en-us-nyc, f5 belong to held-out voices"):
        training_voice_names(PoolConfig(accents=("en-us-nyc",), variants=("f5",)))


def test_tests_use_held_out_wordings_and_voices() -> None:
    taxonomy = load_taxonomy()
    bank = phrasing_bank(taxonomy)
    plan = plan_sets(EvalConfig(wordings=60, sentences=5), PoolConfig(), taxonomy, bank, common_words())
    assert {name: len(spoken) for name, spoken in plan.items()} == {
        "wordings": 60,
        "published": 80,
        "sentences": 5,
        "sentences_known_voices": 5,
    }
    held_out = {text for split in bank.values() for text in split.held_out}
    assert {utterance.text for utterance in plan["wordings"]} <= held_out
    for name in ("wordings", "published", "sentences"):
        assert {utterance.voice for utterance in plan[name]} <= set(HELD_OUT_VOICES)


def test_letters_of_what_is_said() -> None:
    assert "".join(CTC_ALPHABET[label] for label in ctc_labels("Is NBI on? (<5 mm)")) == (
        "is n b i on less than five millimeters"
    )
    assert ctc_labels("") == []
    assert min(ctc_labels("a zebra's")) == 1


def test_a_pool_is_spoken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = [Utterance(text, Voice("en-us")) for text in ("one", "two two", "three")]
    first = make_pool(tmp_path, plan, shard=2)
    files = sorted(path.name for path in tmp_path.rglob("shard-*"))
    assert files == ["shard-0000.jsonl", "shard-0000.npy", "shard-0001.jsonl", "shard-0001.npy"]

    def fail(*_: object) -> None:
        raise AssertionError("spoken again")

    monkeypatch.setattr("surgvivqa_audio.training.asr_data.synthesize", fail)
    second = make_pool(tmp_path, plan, shard=2)
    assert [wave.dtype for wave in second.waves] == [np.int16] * 3
    assert all(np.array_equal(one, two) for one, two in zip(first.waves, second.waves, strict=True))
    assert first.waves[1].size > first.waves[0].size
    with pytest.raises(AssertionError, match="spoken again"):
        make_pool(tmp_path, plan[:2], shard=2)


def test_augmentation_is_drawn_from_the_generator() -> None:
    wave, bank = _noise(16_000), [_noise(40_000, 1)]
    config = AugmentConfig(warp=1.0, noise=1.0, reverb=1.0)
    one = augment(wave, config, bank, np.random.default_rng(5))
    two = augment(wave, config, bank, np.random.default_rng(5))
    assert np.array_equal(one, two)
    assert one.dtype == np.float32
    assert not np.array_equal(one, augment(wave, config, bank, np.random.default_rng(6)))
    still = AugmentConfig(warp=0, noise=0, reverb=0, gain_db=(0.0, 0.0), silence_s=0)
    assert np.array_equal(augment(wave, still, bank, np.random.default_rng(5)), wave)


def test_another_speaker_moves_bands_and_weighs_them_alike_in_every_frame() -> None:
    ramp = np.repeat(np.arange(80, dtype=np.float32)[:, None], 5, axis=1)
    still = AugmentConfig()
    assert np.array_equal(other_speaker(ramp, still, np.random.default_rng(0)), ramp)
    moving = AugmentConfig(formant=1.0, formant_bins=4.0)
    moved = other_speaker(ramp, moving, np.random.default_rng(0))
    assert moved.dtype == np.float32
    assert moved.shape == (80, 5)
    assert (moved == moved[:, :1]).all()
    assert moved[0, 0] == 0
    assert moved[79, 0] == 79
    assert (np.diff(moved[:, 0]) > 0).all()
    # The first numbers drawn after the one that decides move both inner knots, to -1.84 and -3.67 bins.
    shifts = moved[:, 0] - ramp[:, 0]
    assert np.interp([79 / 3, 158 / 3], np.arange(80), shifts) == pytest.approx([-1.84, -3.67], abs=0.15)
    weighing = AugmentConfig(equalise=1.0, equalise_db=8.0)
    level = other_speaker(np.full((80, 5), 0.5, np.float32), weighing, np.random.default_rng(0)) - 0.5
    assert (level == level[:, :1]).all()
    assert 0.05 < np.abs(level).max() <= 0.2
    # (8 dB are 0.8 of log10(power), of which the features are a quarter.)
    loud = np.zeros((80, 5), np.float32)
    loud[40] = 1.9
    heard = other_speaker(loud, weighing, np.random.default_rng(0))
    assert heard.min() == pytest.approx(heard.max() - 2.0)


def test_batches_fill_the_frame_budget_and_depend_on_the_step_alone() -> None:
    sizes = [16_000 + 160 * number for number in range(60)]
    pool = Pool(
        [Utterance(f"text {number}", Voice("en-us")) for number in range(60)],
        [(_noise(size, size) * 32767).astype(np.int16) for size in sizes],
    )
    batcher = Batcher(pool, make_feature_extractor(), AugmentConfig(), [_noise(9000)], frames=1500, seed=1)
    order = by_length(pool)
    mels, texts = batcher.batch(7, order)
    again, same = batcher.batch(7, order)
    assert texts == same
    assert all(np.array_equal(one, two) for one, two in zip(mels, again, strict=True))
    assert batcher.batch(8, order)[1] != texts
    for step in range(20):
        mels, _ = batcher.batch(step, order)
        assert 7 <= len(mels) <= 11
        assert sum(mel.shape[1] for mel in mels) <= 2200


def test_an_easy_start_goes_from_short_and_clean_to_everything() -> None:
    sizes = [16_000 + 160 * number for number in range(400)]
    pool = Pool(
        [Utterance(str(number), Voice("en-us")) for number in range(400)],
        [(_noise(size, size) * 32767).astype(np.int16) for size in sizes],
    )
    extractor, order = make_feature_extractor(), by_length(pool)
    loud = AugmentConfig(gain_db=(-20.0, -20.0))
    batcher = Batcher(pool, extractor, loud, [_noise(9000)], frames=1500, seed=1, easy_steps=10)

    def spoken(step: int) -> tuple[set[int], int]:
        """Whose turn it is, and how many are as they were recorded."""
        mels, texts = batcher.batch(step, order)
        clean = sum(
            np.array_equal(mel, log_mel(extractor, pool.waves[int(text)].astype(np.float32) / 32768.0))
            for mel, text in zip(mels, texts, strict=True)
        )
        return {int(text) for text in texts}, len(texts) - clean

    first, changed = spoken(0)
    assert max(first) < 130  # the shortest hundred and their neighbours
    assert changed == 0
    later = [spoken(step) for step in range(10, 30)]
    assert max(max(said) for said, _ in later) > 300
    assert all(changed == len(said) for said, changed in later)


def test_a_piece_of_noise_starts_anywhere_and_loops() -> None:
    bank = [np.arange(4, dtype=np.float32), -np.arange(5, dtype=np.float32)]
    drawn = _noise_piece(bank, 7, np.random.default_rng(0))
    assert drawn.dtype == np.float32
    assert drawn.tolist() == [-3.0, -4.0, 0.0, -1.0, -2.0, -3.0, -4.0]
    # Stored sounds of earlier runs hold these very values.
    nothing = _nothing(bank, np.random.default_rng(1))
    assert (nothing.dtype, nothing.size) == (np.float32, 34_498)
    level = np.float32(0.0027069412171840668)
    assert nothing[:5].tolist() == (-level * np.float32([4, 0, 1, 2, 3])).tolist()
    assert not _nothing(bank, np.random.default_rng(0)).any()


def test_nothing_said_has_an_empty_text() -> None:
    pool = Pool([Utterance("words", Voice("en-us"))], [(_noise(16_000) * 32767).astype(np.int16)])
    config = AugmentConfig(nothing_said=1.0)
    batcher = Batcher(pool, make_feature_extractor(), config, [_noise(9000)], frames=150, seed=1)
    mels, texts = batcher.batch(0, by_length(pool))
    assert texts == [""]
    assert mels[0].shape == (80, 100)
