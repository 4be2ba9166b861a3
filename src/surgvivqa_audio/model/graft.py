"""A Whisper encoder grafted onto a stock Qwen vision-language model, by composition.

Nothing of the stock classes is overridden. Audio tokens are ordinary text to the position index (type 0);
their features replace the placeholder embeddings, and the language model receives ``inputs_embeds`` with
explicit position ids, which is exact on Qwen2-VL, Qwen2.5-VL and Qwen3-VL.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, Cache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.encoder import encode_audio, stack_frames
from surgvivqa_audio.model.families import get_family
from surgvivqa_audio.model.fusion import splice_audio
from surgvivqa_audio.model.packing import additive_mask, packed_mask, packed_positions
from surgvivqa_audio.model.projector import build_projector, match_embedding_scale

IGNORE = -100


def new_projector(config: AudioGraftConfig) -> nn.Module:
    """A projector that fits a config, with random weights."""
    width = config.vlm_config.get_text_config().hidden_size
    return build_projector(
        config.projector, config.audio_config.d_model * config.stack, width, config.projector_width or width
    )


class AudioGraft(PreTrainedModel):  # type: ignore[misc]
    """One network that hears and sees; see the module's docstring.

    Submodules: ``vlm`` (stock ``*ForConditionalGeneration``), ``audio_encoder`` (stock ``WhisperEncoder``),
    ``audio_projector``.
    """

    config_class = AudioGraftConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_cache_class = True

    def __init__(self, config: AudioGraftConfig) -> None:
        super().__init__(config)
        self.vlm = AutoModelForImageTextToText.from_config(config.vlm_config)
        self.audio_encoder = WhisperEncoder._from_config(config.audio_config)
        self.audio_projector = new_projector(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the stock models initialise themselves, the projector in its constructor."""

    def start_projector(self) -> None:
        """Bring a fresh projector's output to the scale of the token embeddings."""
        table: Any = self.get_input_embeddings()
        match_embedding_scale(self.audio_projector, table.weight)

    def get_input_embeddings(self) -> nn.Module:
        """The language model's token embedding."""
        return self.vlm.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """The language model's head."""
        return self.vlm.get_output_embeddings()

    def get_audio_features(self, input_features: Tensor, audio_lengths: Tensor) -> list[Tensor]:
        """Log-mel (n, m, t) with valid frames (n,) -> one (a, d) tensor per recording."""
        hidden = encode_audio(self.audio_encoder, input_features, audio_lengths)
        return self.project_audio(hidden, (audio_lengths + 1) // 2)

    def project_audio(self, audio_hidden: Tensor, audio_frames: Tensor) -> list[Tensor]:
        """Encoder output (n, s, d_audio) with valid frames (n,) -> one (a, d) tensor per recording."""
        stacked, counts = stack_frames(audio_hidden, audio_frames, self.config.stack)
        # the projector casts: wrapped for training it has a copy in fp32 beside a frozen one in bf16
        features = self.audio_projector(stacked)
        return [row[:count] for row, count in zip(features, counts.tolist(), strict=True)]

    def embed(self, input_ids: Tensor, audio_features: list[Tensor] | None) -> Tensor:
        """Token embeddings (b, s, d) with audio features in place of their placeholders."""
        embeddings = self.get_input_embeddings()(input_ids)
        if self.config.audio_token_id is None:
            raise ModelError(
                "the model's config has no audio_token_id; graft it with `surgvivqa model graft`"
            )
        return splice_audio(embeddings, input_ids, audio_features or [], self.config.audio_token_id)

    def positions(
        self,
        input_ids: Tensor,
        mm_token_type_ids: Tensor,
        attention_mask: Tensor | None = None,
        **grids: Any,
    ) -> tuple[Tensor, Tensor]:
        """M-RoPE positions (3, b, s) and the position after each row's last token, (b,).

        ``grids`` are ``image_grid_thw``, ``video_grid_thw`` and, for Qwen2.5-VL, ``second_per_grid_ts``.
        """
        given = get_family(self.config.vlm_config.model_type).position_arguments(grids)
        positions, deltas = self.vlm.model.get_rope_index(
            input_ids, mm_token_type_ids=mm_token_type_ids, attention_mask=attention_mask, **given
        )
        used = input_ids.shape[1] if attention_mask is None else attention_mask.sum(dim=1)
        return positions, deltas.reshape(-1) + used

    def hidden_states(
        self,
        input_ids: Tensor,
        *,
        mm_token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        segments: Tensor | None = None,
        position_ids: Tensor | None = None,
        input_features: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        audio_features: list[Tensor] | None = None,
        audio_hidden: Tensor | None = None,
        audio_frames: Tensor | None = None,
        vision_features: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        image_grid_thw: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        second_per_grid_ts: Tensor | None = None,
        **vision: Any,
    ) -> Any:
        """Run everything below the head; returns the stock model output with ``last_hidden_state`` (b, s, d).

        ``segments`` (b, s) switches to packed questions (see ``packing``). ``vision`` holds
        ``pixel_values``, ``pixel_values_videos`` or ``mm_encoder_outputs``. What the frozen towers would
        compute may be given instead: ``audio_hidden`` (n, s, d_audio) with ``audio_frames`` (n,), and
        ``vision_features`` (tokens of all clips, d).
        """
        if audio_hidden is not None and audio_frames is not None:
            audio_features = self.project_audio(audio_hidden, audio_frames)
        elif audio_features is None and input_features is not None and audio_lengths is not None:
            audio_features = self.get_audio_features(input_features, audio_lengths)
        if vision_features is not None:
            seen = BaseModelOutputWithPooling(pooler_output=[vision_features])
            vision["mm_encoder_outputs"] = {"video": seen}
        embeddings = self.embed(input_ids, audio_features)
        types = torch.zeros_like(input_ids) if mm_token_type_ids is None else mm_token_type_ids
        grids = {
            "image_grid_thw": image_grid_thw,
            "video_grid_thw": video_grid_thw,
            "second_per_grid_ts": second_per_grid_ts,
        }
        mask: Any = attention_mask
        if segments is not None:
            prefix = (segments == 0).long()
            start, after = self.positions(input_ids, types, prefix, **grids)
            position_ids = packed_positions(start, after, segments)
            mask = {"full_attention": additive_mask(packed_mask(segments), embeddings.dtype)}
        elif position_ids is None:
            if past_key_values is not None and past_key_values.get_seq_length():
                raise ModelError("continuing a cache needs explicit position_ids")
            position_ids, _ = self.positions(input_ids, types, attention_mask, **grids)
        return self.vlm.model(
            inputs_embeds=embeddings,
            position_ids=position_ids,
            attention_mask=mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            image_grid_thw=image_grid_thw,
            video_grid_thw=video_grid_thw,
            **vision,
        )

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        logits_to_keep: int = 0,
        all_logits: bool = False,
        **inputs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (b, s, vocabulary), or with labels only the loss over the answer positions.

        With ``labels`` the head runs on supervised positions alone and no logits are returned: on a 152k
        vocabulary the full table costs more memory than the rest of a training step. ``all_logits`` computes
        that table nevertheless, as the predecessor does; the loss is the same.
        """
        outputs = self.hidden_states(input_ids, **inputs)
        hidden = outputs.last_hidden_state
        head = self.get_output_embeddings()
        if labels is None:
            return CausalLMOutputWithPast(
                logits=head(hidden[:, -logits_to_keep:] if logits_to_keep else hidden),
                past_key_values=outputs.past_key_values,
            )
        targets = labels[:, 1:]
        chosen = targets != IGNORE
        answers = hidden[:, :-1][chosen]
        logits = head(hidden).float()[:, :-1][chosen] if all_logits else head(answers).float()
        total = nn.functional.cross_entropy(logits, targets[chosen], reduction="sum")
        count = chosen.sum() if num_items_in_batch is None else num_items_in_batch
        return CausalLMOutputWithPast(loss=total / count)
