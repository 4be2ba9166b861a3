"""4-bit loading (NF4, double quantisation) of the language model's projections, on a GPU or a CPU.

Towers, audio projector, embeddings and head stay in floating point, which is asserted after loading: the
library's own list of modules to skip matches full paths only and ignores a wrong one silently.
Source: QLoRA, arXiv 2305.14314; bitsandbytes 0.50.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from surgvivqa_audio.errors import MissingExtra, ModelError
from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.model.loading import ADAPTER, Stage, load_adapter, read_model
from surgvivqa_audio.model.patches import fast_vision
from surgvivqa_audio.model.source import resolve, shard_files

KEPT = ("vlm.model.visual", "vlm.lm_head", "audio_encoder", "audio_projector")
_LAYERS = "vlm.model.language_model.layers."


def _library() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise MissingExtra(
            "4-bit loading needs bitsandbytes; install the extra: surgvivqa-audio[train]"
        ) from error
    return bitsandbytes


def load_4bit(
    folder: str | Path,
    *,
    stage: Stage = "base",
    compute: torch.dtype = torch.bfloat16,
    device: str = "cpu",
) -> Any:
    """Load a grafted checkpoint with its language layers in NF4.

    Args:
        folder: folder or Hub id.
        stage: ``base``, or ``tuned`` with the adapter beside it (never merged: merging would quantise it too;
            see :func:`dequantise`).
        compute: precision of the arithmetic and of everything that is not quantised.
        device: ``cpu`` or a GPU.

    Raises:
        MissingExtra: bitsandbytes is not installed.
        ModelError: the checkpoint is incomplete, or a part is quantised that must not be.
    """
    _library()
    from transformers import BitsAndBytesConfig

    folder = resolve(folder)
    shard_files(folder)
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=list(KEPT),
    )
    model: AudioGraft = read_model(
        AudioGraft, folder, dtype=compute, quantization_config=settings, device_map={"": device}
    )
    check_4bit(model)
    fast_vision(model.vlm)
    return load_adapter(model, folder / ADAPTER, merge=False).eval() if stage == "tuned" else model.eval()


def quantised(model: nn.Module) -> dict[str, Any]:
    """The 4-bit layers of a model by name."""
    kind = _library().nn.Linear4bit
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


def check_4bit(model: AudioGraft) -> None:
    """Assert what is quantised, and cure the CPU's repacked weights.

    On a CPU with AVX-512-BF16 the first forward in eval mode repacks 4-bit weights in place, after which
    training fails or silently loses gradients; the flag per layer turns that off.

    Raises:
        ModelError: a tower, the projector or the head is quantised, or a language layer is not.
    """
    layers = quantised(model)
    wrong = [name for name in layers if not name.startswith(_LAYERS)]
    plain = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(_LAYERS) and name not in layers
    ]
    if wrong or plain:
        raise ModelError(
            f"4-bit loading went wrong: {len(wrong)} parts quantised that must stay in floating point, "
            f"{len(plain)} language layers not quantised, for example {(wrong + plain)[0]}"
        )
    for layer in layers.values():
        layer.support_avx512bf16_for_cpu = False


def dequantise(model: AudioGraft, dtype: torch.dtype = torch.float32) -> AudioGraft:
    """A model with every 4-bit layer replaced by its values in floating point; the given one is used up.

    The base to merge an adapter into that was trained on the 4-bit model: it has exactly the weights that
    training saw. Merging into the original instead would shift every logit by the quantisation error.
    """
    functional = _library().functional
    for name, layer in quantised(model).items():
        weight = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        bias = layer.bias is not None
        plain = nn.Linear(layer.in_features, layer.out_features, bias=bias, dtype=dtype, device=weight.device)
        plain.weight.data = weight.to(dtype)
        if bias:
            plain.bias.data = layer.bias.data.to(dtype)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, plain)
    # A fresh shell, because the loaded one remembers that it was quantised and refuses to be cast.
    fields = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    with torch.device("meta"):
        shell = AudioGraft(AudioGraftConfig.from_dict(fields))
    shell.vlm, shell.audio_encoder = model.vlm, model.audio_encoder
    shell.audio_projector = model.audio_projector
    return shell.to(dtype)
