"""Pretraining that was killed goes on from its newest complete checkpoint to the same weights."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.encoder import encode_audio
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.model.patches import lean_attention
from surgvivqa_audio.processing.features import batch_mels
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training.answer_loss import answer_loss
from surgvivqa_audio.training.clip_pool import PoolClip
from surgvivqa_audio.training.language import LanguageConfig, train_language
from surgvivqa_audio.training.loop import Loop, LoopConfig
from surgvivqa_audio.training.nano import NanoSize, nano_vlm_config
from surgvivqa_audio.training.rows import RowConfig, Rows, Seen, Typed, Voiced
from surgvivqa_audio.training.tower import VIEWS, TowerConfig, clip_features, see, train_tower, view_of
from surgvivqa_audio.training.utterances import Heard
from tiny_graft import nano_processor, whisper_config

SIZE = NanoSize(
    hidden=48, layers=1, heads=3, kv_heads=1, ffn=64, vision_width=32, vision_layers=1, vision_heads=2
)


def _clips(taxonomy: Taxonomy) -> list[PoolClip]:
    rng, chooser = np.random.default_rng(0), random.Random(0)
    clips = []
    for _ in range(3):
        answers = {name: chooser.choice(kind.answers).short for name, kind in taxonomy.types.items()}
        clips.append(
            PoolClip(
                rng.integers(0, 255, (8, 112, 112, 3), dtype=np.uint8),
                answers,
                (),
                rng.random((4, 4, 4, 3), dtype=np.float32),
                rng.random((4, 4, 4, 2), dtype=np.float32),
                rng.random((8, 2), dtype=np.float32) * 112,
            )
        )
    return clips


def _model() -> tuple[AudioGraft, AudioGraftProcessor]:
    torch.manual_seed(0)
    processor = nano_processor(max_side=112)
    config = AudioGraftConfig(
        vlm_config=nano_vlm_config(SIZE, processor),
        audio_config=whisper_config(),
        audio_token_id=processor.special.audio,
        max_side=112,
    )
    model = AudioGraft(config)
    model.start_projector()
    return model, processor


def _run(taxonomy: Taxonomy, out: Path, resume: bool) -> dict[str, torch.Tensor]:
    """Tower and language model, four steps each with a checkpoint after two."""
    model, processor = _model()
    clips = _clips(taxonomy)
    short = {"steps": 4, "checkpoint_every": 2}
    tower = TowerConfig.model_validate({**short, "batch": 2})
    train_tower(model.vlm, processor, taxonomy, clips, tower, out / "tower", resume)
    seen = [Seen(clips, clip_features(model.vlm, processor, clips, out / "features.safetensors"))]
    config = LanguageConfig.model_validate({**short, "rows": {"batch": 2, "questions": 2}})
    train_language(model, processor, taxonomy, seen, ["word"], config, out / "language", resume)
    return dict(model.vlm.state_dict())


def test_resumed_run_ends_with_the_same_weights(taxonomy: Taxonomy, tmp_path: Path) -> None:
    start = dict(_model()[0].vlm.state_dict())
    whole = _run(taxonomy, tmp_path, resume=False)
    for part in ("tower", "language"):
        names = sorted(path.name for path in (tmp_path / part / "checkpoint").iterdir())
        assert names == ["step-000002.safetensors", "step-000004.safetensors"]
        (tmp_path / part / "checkpoint" / "step-000004.safetensors").unlink()
    again = _run(taxonomy, tmp_path, resume=True)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    moved = {name for name in whole if not torch.equal(start[name], whole[name])}
    assert any("visual" in name for name in moved)
    assert any("language_model" in name for name in moved)


def _loop(out: Path, loss: Any) -> Loop:
    return Loop(torch.nn.Linear(2, 2), LoopConfig(steps=1), out, loss)


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    assert not _loop(tmp_path, None).resume()


def test_diverging_run_stops_with_a_remedy(tmp_path: Path) -> None:
    loop = _loop(tmp_path, lambda step: (torch.tensor(float("nan")), {}))
    with pytest.raises(ModelError, match="the loss of step 0 is not finite; lower lr_muon or lr_adamw"):
        loop.run()
    assert not (tmp_path / "checkpoint").exists()


def test_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    first = _loop(tmp_path, None)
    first.save()
    other = Loop(torch.nn.Linear(2, 2, bias=False), LoopConfig(steps=1), tmp_path, lambda step: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(ModelError, match=r"step-000000\.safetensors: was written for other parameters"):
        other.resume()


def test_questions_that_share_a_prefix_have_the_loss_of_whole_rows(taxonomy: Taxonomy) -> None:
    model, processor = _model()
    model.eval()
    clips = _clips(taxonomy)[:1]
    waves = [np.random.default_rng(seed).normal(0, 0.1, 8_000 + 700 * seed) for seed in range(3)]
    mels = [processor.mel(wave.astype(np.float32)) for wave in waves]
    with torch.no_grad():
        states = [_states(model, mel) for mel in mels]
        views = [see(model.vlm, processor, [view_of(clips[0], view)]) for view in range(VIEWS)]
    heard = Heard(states, [mel.shape[-1] for mel in mels], {name: [0, 1, 2] for name in taxonomy.types})
    config = RowConfig(batch=2, questions=3, out_of_scope=0.0, typed=0.5, other_branch=1.0)
    typed, voiced = Typed(taxonomy, ["word"]), Voiced(heard, 80)
    rows = Rows([Seen(clips, torch.stack(views))], typed, voiced, processor, taxonomy, config)
    batch = rows.batch(0)
    assert 0 < len(batch.states) < 6
    order = [next(i for i, each in enumerate(states) if each is state) for state in batch.states]
    features, lengths = batch_mels([mels[index] for index in order])
    pixels = [processor.clip(list(batch.clips[row].frames), 6.25).pixels for row in batch.owner.tolist()]
    ids = torch.cat([batch.prefix["input_ids"][batch.owner], batch.ids], dim=1)
    prefix_length = batch.prefix["input_ids"].shape[1]
    with torch.no_grad():
        whole = model(
            ids,
            labels=nn.functional.pad(batch.labels, (prefix_length, 0), value=-100),
            attention_mask=(ids != processor.special.pad).long(),
            mm_token_type_ids=nn.functional.pad(
                batch.prefix["mm_token_type_ids"][batch.owner], (0, batch.ids.shape[1])
            ),
            pixel_values_videos=torch.from_numpy(np.concatenate(pixels)),
            video_grid_thw=batch.prefix["video_grid_thw"][batch.owner],
            input_features=features,
            audio_lengths=lengths,
        ).loss
        lean_attention(model.vlm)
        shared, _, _ = answer_loss(model, batch)
    assert float(whole) > 1.0
    assert abs(float(shared) - float(whole)) <= 1e-5


def _states(model: AudioGraft, mel: Any) -> torch.Tensor:
    """Encoder states (n, d) of one recording."""
    return encode_audio(model.audio_encoder, torch.from_numpy(mel)[None], torch.tensor([mel.shape[-1]]))[0]
