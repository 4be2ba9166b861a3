"""What a model costs, counted from its config; and the commands around checkpoints."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast, WhisperForConditionalGeneration
from typer.testing import CliRunner

from surgvivqa_audio.commands.model import app
from surgvivqa_audio.errors import ConfigError, ModelError
from surgvivqa_audio.model.counts import count_parts, shape_of
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.model.info import GPUS, describe, roofline
from surgvivqa_audio.model.loading import graft, load_graft
from surgvivqa_audio.model.memory import inference_gib, qlora_gib, vision_bytes
from surgvivqa_audio.model.sizes import named_config
from surgvivqa_audio.processing.assemble import add_audio_tokens
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from tiny_graft import IDS, nano_tokenizer, tiny_config, tiny_graft, vlm_config, whisper_config

RUN = CliRunner()


def test_parameters_of_the_real_size_equal_the_published_totals() -> None:
    parts = count_parts(named_config("7b", "seed"))
    assert parts.vlm == 8_291_375_616  # Qwen2-VL-7B-Instruct: 8.29 B
    assert parts.audio_encoder == 636_968_960  # encoder of whisper-large-v3-turbo: 0.64 B
    assert parts.audio_projector == 1280 * 3584 == 4_587_520
    assert parts.vision == 675_759_104
    assert parts.head == parts.embedding == 152_064 * 3584


def test_parts_of_a_tied_model_add_up_to_the_model() -> None:
    config = tiny_config()
    parts = count_parts(config)
    assert parts.head == 0
    assert parts.total == sum(parameter.numel() for parameter in AudioGraft(config).parameters())


@pytest.mark.parametrize(
    ("layout", "side", "frames", "visual", "audio"),
    [
        ("stream", 384, 8, 616, 44),
        ("stream", 384, 16, 1232, 44),
        ("stream", 768, 8, 2376, 44),
        ("seed", 384, 8, 1232, 1500),
        ("seed", 768, 8, 4752, 1500),
    ],
)
def test_tokens_of_a_clip_and_a_question(
    layout: str, side: int, frames: int, visual: int, audio: int
) -> None:
    shape = shape_of(named_config("7b", layout), 1080, 1350, frames, side, 3.5)
    assert (shape.visual, shape.patches, shape.audio) == (visual, visual * 4, audio)


def test_memory_and_time_are_of_the_known_order() -> None:
    config = named_config("7b")
    parts = count_parts(config)
    shape = shape_of(config, 1080, 1350, 8, 384, 3.5)
    memory = {name: inference_gib(config, parts, shape, name) for name in ("bf16", "fp8", "nf4")}
    assert memory["nf4"] < memory["fp8"] < memory["bf16"] < 24  # all fit a 24 GB card
    # 16.72 GiB of weights, half a GiB of runtime, and a prompt or a clip
    assert memory["bf16"] == pytest.approx(2 * parts.total / 2**30 + 0.64, abs=0.02)
    assert memory["nf4"] < qlora_gib(config, parts, shape, 1) < qlora_gib(config, parts, shape, 4) < 24
    times = roofline(config, parts, shape, GPUS["h200"])
    # 14.1 GB of projections and head are read once per token at 4.8 TB/s
    assert times.per_token == pytest.approx(2.95, abs=0.05)
    assert times.prefix_ready is not None
    assert times.per_token < times.prefix_ready < times.cold
    assert roofline(named_config("7b", "seed"), parts, shape, GPUS["h200"]).prefix_ready is None
    with pytest.raises(ConfigError, match="unknown GPU 'tpu'"):
        describe(config, ["tpu"])
    with pytest.raises(ConfigError, match="at most 30 s"):
        shape_of(config, 1080, 1350, 8, 384, 31)


@pytest.mark.parametrize(
    ("side", "frames", "gib"), [(384, 8, 0.094), (384, 16, 0.188), (768, 8, 0.363), (768, 16, 0.725)]
)
def test_the_vision_tower_holds_no_table_of_patch_by_patch(side: int, frames: int, gib: float) -> None:
    config = named_config("slice")
    shape = shape_of(config, 1080, 1350, frames, side, 3.5)
    assert vision_bytes(config, shape) / 2**30 == pytest.approx(gib, abs=0.002)


def test_the_slice_estimate_is_near_what_was_measured() -> None:
    config = named_config("slice")
    shape = shape_of(config, 1080, 1350, 8, 384, 3.5)
    estimate = inference_gib(config, count_parts(config), shape, "bf16")
    assert estimate == pytest.approx(4.93, abs=0.1)  # `model check slice`, forward pass, process peak


def test_the_audio_token_of_a_named_size_is_the_first_free_id() -> None:
    assert named_config("7b").audio_token_id == 151657


def test_info_prints_a_table_and_json() -> None:
    shown = RUN.invoke(app, ["info", "slice", "--gpu", "h200"])
    assert shown.exit_code == 0
    assert "audio tokens per second of speech: 12.5" in shown.output
    facts = json.loads(RUN.invoke(app, ["info", "slice", "--layout", "seed", "--json"]).output)
    assert facts["tokens_per_second"] == 50
    assert facts["parameters"]["audio_projector"] == 4_587_520
    assert set(facts["roofline_ms"]) == {"4090", "a100", "h200"}


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3-VL and a tiny Whisper, as their publishers would store them."""
    folder = tmp_path_factory.mktemp("stock")
    tokenizer = nano_tokenizer()
    vocabulary = tokenizer.get_vocab()
    names = {"image": "image_pad", "video": "video_pad", "pad": "endoftext"}
    ids = {name: vocabulary[f"<|{names.get(name, name)}|>"] for name in IDS if name != "audio"}
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(vlm_config("qwen3_vl", len(tokenizer), ids))
    model.save_pretrained(folder / "vlm")
    tokenizer.save_pretrained(folder / "vlm")
    WhisperForConditionalGeneration(whisper_config(mel_bins=128)).save_pretrained(folder / "whisper")
    return folder


def test_graft_writes_a_checkpoint_that_loads(stock: Path, tmp_path: Path) -> None:
    out = tmp_path / "grafted"
    arguments = ["graft", "--vlm", str(stock / "vlm"), "--audio", str(stock / "whisper"), "--out", str(out)]
    assert RUN.invoke(app, [*arguments, "--stack", "2", "--dtype", "fp32"]).exit_code == 0
    model = load_graft(out, stage="base")
    processor = AudioGraftProcessor.from_pretrained(out)
    assert (processor.family, processor.patch, processor.stack) == ("qwen3_vl", 16, 2)
    assert processor.mean == [0.5, 0.5, 0.5]
    assert processor.feature_extractor.feature_size == 128
    assert model.config.audio_token_id == processor.special.audio
    scale = float(model.get_input_embeddings().weight.detach().pow(2).mean().sqrt())
    assert float(model.audio_projector.norm_out.weight.detach().max()) == pytest.approx(scale, rel=1e-4)
    assert "Research only" in (out / "README.md").read_text()
    assert not list(tmp_path.glob(".*partial"))
    again = RUN.invoke(app, arguments)
    assert isinstance(again.exception, ConfigError)
    assert "already there" in str(again.exception)


def test_graft_refuses_what_does_not_fit(stock: Path, tmp_path: Path) -> None:
    def run(**changed: str) -> BaseException | None:
        options = {
            "vlm": str(stock / "vlm"),
            "audio": str(stock / "whisper"),
            "out": str(tmp_path / "o"),
        } | changed
        return RUN.invoke(app, ["graft", *[f"--{name}={value}" for name, value in options.items()]]).exception

    assert "family 'whisper' is not supported" in str(run(vlm=str(stock / "whisper")))
    assert "not a Whisper checkpoint" in str(run(audio=str(stock / "vlm")))
    assert "neither a folder nor a Hub id" in str(run(vlm="../elsewhere/x"))
    assert "stack 3 is not possible" in str(run(stack="3"))
    assert "projector 'conv' is unknown" in str(run(projector="conv"))
    assert isinstance(run(dtype="int8"), ConfigError)
    assert isinstance(run(vlm=str(tmp_path)), ModelError)
    assert not (tmp_path / "o").exists()
    assert "the Hub does not give it (LocalEntryNotFoundError)" in str(run(vlm="nobody/nothing"))


def _damaged(stock: Path, tmp_path: Path, change: Callable[[Path], object]) -> BaseException | None:
    shutil.copytree(stock / "vlm", tmp_path / "vlm")
    change(tmp_path / "vlm")
    options = [
        "--vlm",
        str(tmp_path / "vlm"),
        "--audio",
        str(stock / "whisper"),
        "--out",
        str(tmp_path / "o"),
    ]
    return RUN.invoke(app, ["graft", *options]).exception


def _wider(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_size"] = 96
    (folder / "config.json").write_text(json.dumps(config))


def _without_picture_tokens(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text().replace("<|vision_start|>", "<|other|>")
    (folder / "tokenizer.json").write_text(text)
    settings = (folder / "tokenizer_config.json").read_text().replace("<|vision_start|>", "<|other|>")
    (folder / "tokenizer_config.json").write_text(settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors nor"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 999), "cannot be loaded"),
        (_wider, "cannot be loaded|mismatched keys"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer cannot be loaded"),
        (_without_picture_tokens, r"the tokenizer has no <\|vision_start\|>"),
    ],
)
def test_damaged_stock_models_give_one_clear_error(
    stock: Path, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    error = _damaged(stock, tmp_path, change)
    assert isinstance(error, ModelError)
    assert re.search(message, str(error))
    assert not (tmp_path / "o").exists()


def test_new_tokens_take_free_rows_before_the_table_grows(tmp_path: Path) -> None:
    tiny_graft().vlm.save_pretrained(tmp_path / "vlm")
    WhisperForConditionalGeneration(whisper_config()).save_pretrained(tmp_path / "whisper")
    folders = (tmp_path / "vlm", tmp_path / "whisper")
    free = graft(*folders, audio_token_id=41, new_ids=[40, 41, 42])
    assert free.get_input_embeddings().weight.shape[0] == 64
    grown = graft(*folders, audio_token_id=65, new_ids=[64, 65, 66])
    table = grown.get_input_embeddings().weight.detach()
    assert table.shape[0] == 128  # a multiple of 64
    assert grown.config.get_text_config().vocab_size == 128
    known = table[:64]
    assert float((table[64:67] - known.mean(dim=0)).abs().max()) < 0.5 * float(known.std())
    assert len({tuple(row) for row in table[64:67].tolist()}) == 3


def test_audio_tokens_are_added_once() -> None:
    words = {token: index for index, token in enumerate(["<|im_start|>", "<|im_end|>", "a"])}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="a")))
    assert add_audio_tokens(tokenizer) == [3, 4, 5]
    assert add_audio_tokens(tokenizer) == []
    assert tokenizer.convert_tokens_to_ids("<|AUDIO|>") == 4
