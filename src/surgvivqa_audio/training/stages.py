"""The stages of the nano model as functions of a recipe: asr, vlm, graft, align, finetune."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from transformers import WhisperConfig

from surgvivqa_audio.files import write_json
from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.model.patches import fast_vision
from surgvivqa_audio.processing.features import make_feature_extractor
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.provenance import run_record
from surgvivqa_audio.taxonomy import Taxonomy, load_taxonomy
from surgvivqa_audio.training.begun import SUMMARY, begin, finished
from surgvivqa_audio.training.clip_pool import PoolClip, PoolConfig, build_pool, read_pool
from surgvivqa_audio.training.cpu import use_threads
from surgvivqa_audio.training.language import LanguageConfig, train_language
from surgvivqa_audio.training.loop import Progress, steps_done
from surgvivqa_audio.training.nano import NanoSize, nano_vlm_config
from surgvivqa_audio.training.nano_tokenizer import build_nano_tokenizer, common_words, nano_corpus
from surgvivqa_audio.training.rows import Seen, with_features
from surgvivqa_audio.training.tower import TowerConfig, train_tower


class VlmRecipe(BaseModel):
    """Pretraining of the nano Qwen2-VL on simulated clips and typed questions.

    ``language`` names the pools that the language model reads and the tower does not; see
    :func:`split_pools`. ``render`` names the pools that ``--fill-cache`` stops after: another process can
    then render what this one will read last. ``procedures`` keeps the language model to the first ones of
    each (0: all), for training-size curves.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    stage: Literal["vlm"]
    taxonomy: str = "realcolon"
    seed: int = 0
    threads: int = 1
    size: NanoSize = NanoSize()
    pools: dict[str, PoolConfig] = {"clips": PoolConfig()}
    pool_folder: str = "runs/nano"
    features: str = "runs/nano/features"
    tower: TowerConfig = TowerConfig()
    train: LanguageConfig = LanguageConfig()
    language: tuple[str, ...] = ()
    render: tuple[str, ...] = ()
    procedures: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _language_reads_known_pools(self) -> VlmRecipe:
        for key in ("language", "render"):
            unknown = sorted(set(getattr(self, key)) - set(self.pools))
            if unknown:
                raise ValueError(f"{key} names no pool of this recipe: {', '.join(unknown)}")
        if set(self.language) == set(self.pools):
            raise ValueError("language names every pool: none is left for the tower; name fewer, or none")
        return self


def nano_processor(taxonomy: Taxonomy, size: NanoSize) -> AudioGraftProcessor:
    """Tokenizer, feature extractor and geometry of the nano size."""
    tokenizer = build_nano_tokenizer(taxonomy, nano_corpus(taxonomy))
    return AudioGraftProcessor(
        make_feature_extractor(), tokenizer, patch=size.patch, max_side=size.max_side, stack=4
    )


def _empty_graft(recipe: VlmRecipe, processor: AudioGraftProcessor) -> AudioGraft:
    """A random vision-language model; the audio side is untouched here and as small as the class allows."""
    config = AudioGraftConfig(
        vlm_config=nano_vlm_config(recipe.size, processor),
        audio_config=WhisperConfig(
            d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1, vocab_size=32,
            decoder_attention_heads=1, encoder_ffn_dim=8, decoder_ffn_dim=8, max_source_positions=8,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        ),
        audio_token_id=processor.special.audio,
        max_side=recipe.size.max_side,
    )  # fmt: skip
    model = AudioGraft(config)
    fast_vision(model.vlm)
    return model


def render_pools(
    recipe: VlmRecipe, names: Iterable[str], progress: Progress | None = None, backwards: bool = False
) -> None:
    """Render what is not there yet of these clip pools of a recipe."""
    for name in names:
        build_pool(
            recipe.pools[name],
            Path(recipe.pool_folder) / name,
            lambda done, of: progress({"clips": done, "of": of}) if progress else None,
            backwards,
        )


def split_pools(recipe: VlmRecipe) -> tuple[list[str], list[str]]:
    """Names of the pools that the tower trains on, and of those that the language model reads.

    Features of clips that the tower learned by heart look clearer than those of a new clip ever will: what
    ``recipe.language`` names is kept from the tower. Without names the tower has the first pool and the
    language model all of them.
    """
    names = list(recipe.pools)
    if not recipe.language:
        return names[:1], names
    shown = [name for name in names if name not in recipe.language]
    return shown, [name for name in names if name in recipe.language]


def _read(recipe: VlmRecipe, names: list[str], progress: Progress | None) -> list[tuple[str, list[PoolClip]]]:
    render_pools(recipe, names, progress)
    return [(name, read_pool(Path(recipe.pool_folder) / name)) for name in names]


def _see(
    recipe: VlmRecipe, taxonomy: Taxonomy, out: Path, resume: bool, progress: Progress | None
) -> tuple[AudioGraft, AudioGraftProcessor, list[Seen]]:
    """Train the tower and keep, of the clips that the language model reads, what it sees in them."""
    use_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    processor = nano_processor(taxonomy, recipe.size)
    model = _empty_graft(recipe, processor)
    shown, read = split_pools(recipe)
    tower, grid = out / "tower", recipe.pools[shown[0]].grid
    clips: list[PoolClip] = []
    if not (resume and steps_done(tower) == recipe.tower.steps):  # a trained one needs none of its clips
        clips = [clip for _, pool in _read(recipe, shown, progress) for clip in pool]
    train_tower(model.vlm, processor, taxonomy, clips, grid, recipe.tower, tower, resume, progress)
    del clips
    seen = with_features(model.vlm, processor, _read(recipe, read, progress), Path(recipe.features))
    if recipe.procedures:
        counts = [recipe.procedures * recipe.pools[name].clips for name in read]
        seen = [each.first(count) for each, count in zip(seen, counts, strict=True)]
    return model, processor, seen


def fill_seen(recipe: VlmRecipe, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """The first half of :func:`run_vlm`, which goes on from it: clips, tower and what it sees; or the clips
    of ``recipe.render`` alone."""
    if recipe.render:  # from the end: the process that reads them may arrive meanwhile and begin at the start
        render_pools(recipe, recipe.render, progress, backwards=True)
        return {"pools": ", ".join(recipe.render)}
    done = finished(recipe, out)
    if done is not None:
        return done
    begin(recipe, out)
    *_, seen = _see(recipe, load_taxonomy(recipe.taxonomy), out, True, progress)
    return {"steps": recipe.tower.steps, "clips": sum(len(each.clips) for each in seen)}


def run_vlm(recipe: VlmRecipe, out: Path, resume: bool, progress: Progress | None = None) -> dict[str, Any]:
    """Render the clip pools if needed, train the tower, then the language model on its frozen features.

    Saves a stock Qwen2-VL with its processor in ``out/vlm``.
    """
    taxonomy = load_taxonomy(recipe.taxonomy)
    model, processor, seen = _see(recipe, taxonomy, out, resume, progress)
    train_language(
        model, processor, taxonomy, seen, common_words(), recipe.train, out / "language", resume, progress
    )
    model.vlm.save_pretrained(out / "vlm")
    processor.save_pretrained(out / "vlm")
    summary = {
        "steps": recipe.tower.steps + recipe.train.steps,
        "clips": sum(len(each.clips) for each in seen),
        "run": run_record(seed=recipe.seed, config=recipe.model_dump()),
    }
    write_json(out / SUMMARY, summary)
    return summary
