"""The nano vocabulary: small, repeatable, answers short."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.taxonomy import load_taxonomy
from surgvivqa_audio.training.nano_tokenizer import (
    SPECIAL_TOKENS,
    answer_tails,
    build_nano_tokenizer,
    common_words,
    nano_corpus,
)
from tiny_graft import nano_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return nano_tokenizer()


def test_size_and_roles(tokenizer: PreTrainedTokenizerFast) -> None:
    assert isinstance(tokenizer, Qwen2Tokenizer)
    assert len(tokenizer) == 1024
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(11))
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)


def test_answers_are_short_and_their_tree_is_small(tokenizer: PreTrainedTokenizerFast) -> None:
    sentences = load_taxonomy().sentences()
    assert len(sentences) == 56
    encoded = {sentence: tokenizer.encode(sentence) for sentence in sentences}
    assert max(len(ids) for ids in encoded.values()) <= 12
    nodes = {tuple([*ids, 2][:depth]) for ids in encoded.values() for depth in range(1, len(ids) + 2)}
    assert len(nodes) <= 300
    for sentence, ids in encoded.items():
        assert tokenizer.decode(ids) == sentence


def test_words_of_answers_are_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("The lesion appears in the upper-left quadrant of the screen.") == [
        "The",
        "Ġlesion",
        "Ġappears",
        "Ġin",
        "Ġthe",
        "Ġupper",
        "-left",
        "Ġquadrant",
        " of the screen.",
    ]


def test_tails_end_answers_only() -> None:
    tails = answer_tails(load_taxonomy())
    assert tails[0] == " of the screen."
    assert all(tail[0] == " " and tail[-1] == "." for tail in tails)
    assert answer_tails(load_taxonomy(), limit=10_000) == []


def test_any_text_comes_back(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in ("Größe 12.5 µm?", "日本 😀", "  two  spaces\n", "size (<5 mm, 5-9 mm, >9 mm)"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_single_ids_and_skipped(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer.encode("<|im_start|>user\n<|audio_bos|><|AUDIO|><|audio_eos|>Yes<|im_end|>")
    assert [ids[0], *ids[3:6], ids[-1]] == [1, 8, 9, 10, 2]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "user\nYes"


def test_repeatable_and_saved_exactly(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    taxonomy = load_taxonomy()
    again = build_nano_tokenizer(taxonomy, nano_corpus(taxonomy))
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(loaded, Qwen2Tokenizer)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert (loaded.pad_token_id, loaded.eos_token_id, loaded.model_max_length) == (0, 2, 4096)
    text = "<|im_start|>Is the scope moving?<|im_end|><|AUDIO|>"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.decode(loaded.encode(text), skip_special_tokens=True) == "Is the scope moving?"


def test_a_vocabulary_without_room_is_refused() -> None:
    with pytest.raises(ConfigError, match="267 are taken"):
        build_nano_tokenizer(load_taxonomy(), [], size=200)


def test_common_words() -> None:
    listed = common_words()
    assert len(set(listed)) == len(listed) >= 2000
    assert all(word.isalpha() and word.islower() for word in listed)
