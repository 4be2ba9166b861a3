"""The vocabulary of the nano models: at most 1,024 byte-level BPE ids in the manner of Qwen2.

Answer sentences decide the size of the closed-set search, so their words are merged whole; what is left of
the vocabulary goes to the wordings of questions and to common words. One vocabulary serves the language
model and the decoder of the tiny Whisper.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from importlib.resources import files

from tokenizers import AddedToken, Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.speech.phrasing import phrasing_bank
from surgvivqa_audio.taxonomy import Taxonomy

PAD_TOKEN = "<|endoftext|>"
START_TOKEN = "<|im_start|>"
END_TOKEN = "<|im_end|>"
SPECIAL_TOKENS = (
    PAD_TOKEN,
    START_TOKEN,
    END_TOKEN,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|audio_bos|>",
    "<|AUDIO|>",
    "<|audio_eos|>",
)
MAX_VOCABULARY = 1024
MAX_TREE_NODES = 300
_MAX_TAILS = 24
_ROLES = ("system", "user", "assistant")
# far above the pair counts at which the vocabulary is full, so that every word of an answer is merged whole
_ANSWER_WEIGHT = 500


def _training_text(taxonomy: Taxonomy, corpus: Iterable[str]) -> Iterator[str]:
    fixed = sorted(taxonomy.sentences()) + list(_ROLES)
    for _ in range(_ANSWER_WEIGHT):
        yield from fixed
    yield from corpus


def common_words() -> tuple[str, ...]:
    """Plain English words, one of them in most everyday sentences; also what random speech is made of."""
    listed = files("surgvivqa_audio.training").joinpath("words.txt").read_text(encoding="utf-8")
    return tuple(listed.split())


def nano_corpus(taxonomy: Taxonomy) -> list[str]:
    """What the nano vocabulary is trained on besides the answers: training wordings and common words."""
    wordings = [text for split in phrasing_bank(taxonomy).values() for text in split.train]
    return [*wordings, *taxonomy.out_of_scope.train, " " + " ".join(common_words())]


def _tree_nodes(sentences: Iterable[tuple[str, ...]], tails: Iterable[str]) -> int:
    """Nodes of the prefix tree of all sentences plus their end, when each tail in ``tails`` is one token."""
    chosen = frozenset(tails)
    nodes: set[tuple[str, ...]] = set()
    for pieces in sentences:
        cut = next((at for at in range(1, len(pieces)) if "".join(pieces[at:]) in chosen), len(pieces))
        whole = (*pieces[:cut], *(("".join(pieces[cut:]),) if cut < len(pieces) else ()), END_TOKEN)
        nodes.update(whole[:depth] for depth in range(1, len(whole) + 1))
    return len(nodes)


def answer_tails(taxonomy: Taxonomy, limit: int = MAX_TREE_NODES) -> list[str]:
    """Sentence endings such as `` of the screen.`` to keep as one token each.

    Greedy: the ending that removes most nodes from the tree of all answers, until it has at most ``limit``
    nodes. They end in a full stop, so a question does not contain them.
    """
    split = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer.pre_tokenize_str
    sentences = []
    for sentence in taxonomy.sentences():
        spans = [span for _, span in split(sentence)]
        sentences.append(tuple(sentence[start:end] for start, end in spans))
    candidates = sorted(
        {
            "".join(pieces[at:])
            for pieces in sentences
            for at in range(1, len(pieces) - 1)
            if pieces[at][0] == " "
        }
    )
    tails: list[str] = []
    nodes = _tree_nodes(sentences, tails)
    while nodes > limit and len(tails) < _MAX_TAILS:
        best = min(candidates, key=lambda tail: (_tree_nodes(sentences, [*tails, tail]), tail))
        smaller = _tree_nodes(sentences, [*tails, best])
        if smaller >= nodes:
            break
        tails, nodes = [*tails, best], smaller
    return tails


def build_nano_tokenizer(
    taxonomy: Taxonomy, corpus: Iterable[str], size: int = MAX_VOCABULARY
) -> PreTrainedTokenizerFast:
    """Train the vocabulary; equal arguments give an equal tokenizer.

    Args:
        taxonomy: its answer sentences become short token sequences.
        corpus: wordings of questions and common words, each as often as it should weigh.
        size: number of ids, special tokens included.

    Returns:
        A stock ``Qwen2Tokenizer``: ``<|im_end|>`` ends a text, ``<|endoftext|>`` pads.

    Raises:
        ConfigError: ``size`` has no room for the bytes and the special tokens.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if size < len(alphabet) + len(SPECIAL_TOKENS):
        raise ConfigError(
            f"a vocabulary of {size} ids is too small; {len(alphabet) + len(SPECIAL_TOKENS)} are taken"
        )
    stock = Qwen2Tokenizer()
    backend = Tokenizer(BPE())
    tails = answer_tails(taxonomy)
    backend.normalizer = stock.backend_tokenizer.normalizer
    backend.pre_tokenizer = stock.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(tails),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(_training_text(taxonomy, corpus), trainer)
    model = json.loads(backend.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        unk_token=PAD_TOKEN,
        eos_token=END_TOKEN,
        pad_token=PAD_TOKEN,
        extra_special_tokens=[token for token in SPECIAL_TOKENS if token not in (PAD_TOKEN, END_TOKEN)],
        model_max_length=4096,
    )
    tokenizer.add_tokens([AddedToken(tail, normalized=False) for tail in tails])
    return tokenizer
