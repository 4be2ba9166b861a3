"""The predecessor's checkpoints: written here in its layout, imported, and held against a plain reference."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from typer.testing import CliRunner

from surgvivqa_audio.commands.model import app
from surgvivqa_audio.errors import ConfigError, ModelError
from surgvivqa_audio.model.loading import ADAPTER, load_graft
from surgvivqa_audio.model.seed import import_adapter, load_seed, map_key
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.features import make_feature_extractor
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Spoken
from surgvivqa_audio.processing.seed import ImageInputs
from tiny_graft import nano_tokenizer, tone

AUDIO_ID = 1030  # beyond the tokenizer, as in the published checkpoint


def _flat_config() -> dict[str, Any]:
    """``config.json`` as an older transformers wrote it: text fields on the top level."""
    vocabulary = nano_tokenizer().get_vocab()
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl",
        "vocab_size": 1040, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        "initializer_range": 0.1, "rms_norm_eps": 1e-6, "rope_theta": 1000.0, "tie_word_embeddings": False,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "patch_size": 14,
                          "initializer_range": 0.1},
        "image_token_id": vocabulary["<|image_pad|>"], "video_token_id": vocabulary["<|video_pad|>"],
        "vision_start_token_id": vocabulary["<|vision_start|>"],
        "vision_end_token_id": vocabulary["<|vision_end|>"],
        "audio_token_id": AUDIO_ID, "audio_hidden_size": 64, "use_audio_encoder": True,
    }  # fmt: skip


class Reference:
    """The predecessor's forward pass written down plainly: features in, logits out."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        fields = {k: v for k, v in _flat_config().items() if "audio" not in k and k != "architectures"}
        self.vlm = Qwen2VLForConditionalGeneration(Qwen2VLConfig.from_dict(fields)).eval()
        self.encoder = WhisperEncoder(
            WhisperConfig(d_model=64, encoder_layers=2, encoder_attention_heads=1, encoder_ffn_dim=96,
                          num_mel_bins=128, max_source_positions=1500, init_std=0.1)
        ).eval()  # fmt: skip
        self.projector = torch.nn.Linear(64, 64, bias=False)

    def state(self) -> dict[str, Tensor]:
        """Published key names."""
        state = {}
        for name, tensor in self.vlm.state_dict().items():
            old = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
            state[old] = tensor.clone()
        state |= {f"audio_encoder.{name}": tensor for name, tensor in self.encoder.state_dict().items()}
        state["audio_projector.weight"] = self.projector.weight.detach().clone()
        return state

    @torch.no_grad()
    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        ids = batch["input_ids"]
        heard = self.projector(self.encoder(batch["input_features"]).last_hidden_state)
        embedded = self.vlm.get_input_embeddings()(ids)
        embedded[ids == AUDIO_ID] = heard.reshape(-1, 64)
        seen = self.vlm.model.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"]).pooler_output
        embedded[ids == self.vlm.config.image_token_id] = seen
        positions, _ = self.vlm.model.get_rope_index(
            ids, mm_token_type_ids=batch["mm_token_type_ids"], image_grid_thw=batch["image_grid_thw"]
        )
        hidden = self.vlm.model.language_model(
            inputs_embeds=embedded, position_ids=positions
        ).last_hidden_state
        return self.vlm.lm_head(hidden)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.fixture
def checkpoint(reference: Reference, tmp_path: Path) -> Path:
    """Two shards with an index, as published."""
    folder = tmp_path / "seed"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(_flat_config()))
    names = sorted(reference.state())
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    state = reference.state()
    for shard, members in shards.items():
        save_file({name: state[name].contiguous() for name in members}, folder / shard, {"format": "pt"})
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def _processor(max_side: int = 384) -> AudioGraftProcessor:
    return AudioGraftProcessor(
        make_feature_extractor(128), nano_tokenizer(), stack=1, layout="seed", max_side=max_side,
        audio_token_id=AUDIO_ID,
    )  # fmt: skip


def _batch(processor: AudioGraftProcessor, make_frames: Any, answer: str | None = None) -> dict[str, Tensor]:
    images = processor.clip(make_frames(8, 60), 6.25)
    spoken = Spoken("audio+text", processor.mel(tone(0.7)), "Is a polyp visible?", answer)
    return collate([processor.encode(images, [spoken])], processor.special.pad, labels=answer is not None)


def test_every_published_key_has_a_place() -> None:
    assert map_key("model.layers.3.self_attn.q_proj.weight") == (
        "vlm.model.language_model.layers.3.self_attn.q_proj.weight"
    )
    assert map_key("visual.patch_embed.proj.weight") == "vlm.model.visual.patch_embed.proj.weight"
    assert map_key("lm_head.weight") == "vlm.lm_head.weight"
    assert map_key("audio_projector.weight") == "audio_projector.weight"
    assert map_key("audio_projector.bias") is None
    assert map_key("talker.weight") is None


def test_imported_logits_equal_the_reference(
    checkpoint: Path, reference: Reference, make_frames: Any
) -> None:
    model = load_seed(checkpoint)
    assert (model.config.layout, model.config.stack, model.config.audio_token_id) == ("seed", 1, AUDIO_ID)
    assert model.config.audio_config.encoder_attention_heads == 1
    batch = _batch(_processor(), make_frames)
    with torch.no_grad():
        ours = model(**batch).logits
    theirs = reference.logits(batch)
    assert float(theirs.std()) > 0.1
    assert float((ours - theirs).abs().max()) <= 1e-5


def test_the_token_sequence_is_the_published_one(make_frames: Any) -> None:
    processor = _processor()
    images = processor.clip([np.zeros((1080, 1350, 3), np.uint8)] * 8, 6.25)
    assert isinstance(images, ImageInputs)
    assert images.grids == ((1, 22, 28),) * 8
    spoken = Spoken("audio+text", processor.mel(tone(0.7)), "Is it <|im_end|> red?", "Yes.")
    example = processor.encode(images, [spoken])
    at = example.ids.index(AUDIO_ID)
    assert example.ids[at : at + 1500] == [AUDIO_ID] * 1500
    assert AUDIO_ID not in example.ids[at + 1500 :]
    decode = processor.tokenizer.decode
    assert decode(example.ids[:at]) == "<|im_start|>user\n<|audio_bos|>"
    picture = "<|vision_start|>" + "<|image_pad|>" * 154 + "<|vision_end|>"
    assert decode(example.ids[at + 1500 :]) == (
        "<|audio_eos|>\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        + picture * 8
        + "User Question: Is it <|im_end|> red?\nAnswer the question concisely based on the visual and audio "
        "evidence.<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>"
    )
    assert example.ids.count(processor.special.im_end) == 3  # the one typed by the user stays text
    assert decode([label for label in example.labels if label != -100]) == "Yes.<|im_end|>"
    assert example.mels[0].shape == (128, 3000)
    assert example.types.count(1) == 8 * 154


def test_features_and_pictures_equal_the_stock_processors() -> None:
    processor = _processor()
    wave = tone(1.3)
    stock = WhisperFeatureExtractor(feature_size=128)(wave, sampling_rate=16_000, return_tensors="np")
    assert np.array_equal(processor.mel(wave), stock["input_features"][0])
    from PIL import Image

    frame = np.random.default_rng(0).integers(0, 256, (540, 675, 3), dtype=np.uint8)
    picture = Image.fromarray(frame)
    picture.thumbnail((384, 384))
    expected = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=28 * 28 * 16384)(
        [np.asarray(picture)], return_tensors="np"
    )
    ours = processor.clip([frame], 1.0)
    assert isinstance(ours, ImageInputs)
    assert ours.grids == ((1, 22, 28),)
    assert float(np.abs(ours.pixels - expected["pixel_values"]).max()) <= 1e-5


def test_what_the_layout_does_not_have_is_refused(make_frames: Any) -> None:
    processor = _processor()
    images = processor.clip(make_frames(2, 60), 1.0)
    with pytest.raises(ConfigError, match="audio first"):
        processor.prefix_ids(images)
    with pytest.raises(ConfigError, match="always holds audio"):
        processor.encode(images, [Spoken("text", text="Is it?")])
    with pytest.raises(ConfigError, match="one question"):
        processor.encode(images, [])


def test_saved_import_loads_like_any_checkpoint(
    checkpoint: Path, reference: Reference, tmp_path: Path, make_frames: Any
) -> None:
    out = tmp_path / "imported"
    load_seed(checkpoint).save_pretrained(out)
    _processor().save_pretrained(out)
    processor = AudioGraftProcessor.from_pretrained(out)
    assert (processor.layout, processor.special.audio, processor.stack) == ("seed", AUDIO_ID, 1)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "lora_dropout": 0.05,
        "target_modules": r"model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)",
        "modules_to_save": ["audio_projector"], "base_model_name_or_path": "seed", "bias": "none",
        "inference_mode": True,
    }  # fmt: skip
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    torch.manual_seed(3)
    merged = reference.state()
    lora: dict[str, Tensor] = {}
    for name, weight in reference.state().items():
        if name.startswith("model.layers.") and name.endswith("_proj.weight"):
            down, up = torch.randn(2, weight.shape[1]) * 0.1, torch.randn(weight.shape[0], 2) * 0.1
            base = f"base_model.model.{name.removesuffix('.weight')}"
            lora |= {f"{base}.lora_A.weight": down, f"{base}.lora_B.weight": up}
            merged[name] = weight + 2.0 * up @ down
    merged["audio_projector.weight"] = torch.randn(64, 64) * 0.2
    lora["base_model.model.audio_projector.weight"] = merged["audio_projector.weight"]
    save_file(lora, adapter / "adapter_model.safetensors", {"format": "pt"})
    import_adapter(adapter, out)
    assert (out / ADAPTER / "adapter_config.json").is_file()

    tuned = Reference()
    now = {key.replace("model.", "model.language_model.", 1) if key.startswith("model.") else
           f"model.{key}" if key.startswith("visual.") else key: value
           for key, value in merged.items() if "audio" not in key}  # fmt: skip
    tuned.vlm.load_state_dict(now)
    tuned.projector.weight.data = merged["audio_projector.weight"]
    batch = _batch(processor, make_frames)
    with torch.no_grad():
        ours = load_graft(out)(**batch).logits
    assert float((ours - tuned.logits(batch)).abs().max()) <= 1e-4
    assert float((ours - reference.logits(batch)).abs().max()) > 1e-2

    lora["base_model.model.model.layers.0.mlp.router.lora_A.weight"] = torch.zeros(2, 2)
    save_file(lora, adapter / "adapter_model.safetensors", {"format": "pt"})
    import_adapter(adapter, out)
    with pytest.raises(ModelError, match=r"unexpected keys: .*router"):
        load_graft(out)
    del lora["base_model.model.audio_projector.weight"]
    save_file(lora, adapter / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="holds no audio_projector"):
        import_adapter(adapter, out)


def _without(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        _rewrite(folder, lambda state: state.pop(name, None))

    return damage


def _rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    for path in folder.glob("model-*.safetensors"):
        state = load_file(path)
        change(state)
        save_file(state, path, {"format": "pt"})


def _second_head(folder: Path) -> None:
    _rewrite(folder, lambda state: state.update({"talker.head.weight": torch.zeros(2)}))


def _narrow(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"intermediate_size": 80}
    (folder / "config.json").write_text(json.dumps(config))


def _projector(state: dict[str, Tensor]) -> None:
    if "audio_projector.weight" in state:
        state["audio_projector.weight"] = torch.zeros(64, 32)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(),
            "00002-of-00002.* is missing",
        ),
        (
            lambda folder: (folder / "model-00001-of-00002.safetensors").write_bytes(b"x" * 99),
            "cannot be read",
        ),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "llama"}'),
            "not a seed checkpoint",
        ),
        (_second_head, r"no known layout: talker\.head\.weight"),
        (_without("audio_encoder.conv1.weight"), r"no audio_encoder\.conv1\.weight"),
        (_without("model.norm.weight"), r"1 missing keys: vlm\.model\.language_model\.norm\.weight"),
        (_narrow, "do not fit|mismatched keys"),
        (lambda folder: _rewrite(folder, _projector), "projector reads 32 channels, the encoder gives 64"),
    ],
)
def test_wrong_seed_checkpoints_give_one_clear_error(
    checkpoint: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(checkpoint)
    with pytest.raises(ModelError, match=message):
        load_seed(checkpoint)


def test_import_seed_writes_everything_or_nothing(checkpoint: Path, tmp_path: Path) -> None:
    nano_tokenizer().save_pretrained(checkpoint)
    out = tmp_path / "out"
    command = ["import-seed", str(checkpoint), "--out", str(out)]
    refused = CliRunner().invoke(app, [*command, "--adapter", str(checkpoint)])
    assert isinstance(refused.exception, ModelError)
    assert "no adapter_config.json" in str(refused.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert load_graft(out, stage="base").config.layout == "seed"
    processor = AudioGraftProcessor.from_pretrained(out)
    assert (processor.layout, processor.special.audio) == ("seed", AUDIO_ID)
    assert processor.feature_extractor.feature_size == 128
