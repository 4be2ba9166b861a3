"""The scoring rules of others, named as what they are, so that figures can be set side by side."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

_WORD = re.compile(r"\w+|[^\w\s]")


def substring(short: str, predicted: str) -> bool:
    """The predecessor's rule: the short answer occurs anywhere in the text ("no" in "normal" counts)."""
    return short.lower() in predicted.lower()


def loose(short: str, sentence: str, predicted: str) -> bool:
    """Its baselines' rule: short answer or gold sentence in the text, or the text in the gold sentence.

    An empty text is in every sentence, so it counts as right.
    """
    text = predicted.lower().strip()
    gold = sentence.lower().strip()
    return short.lower().strip() in text or gold in text or text in gold


def k_acc(short: str, predicted: str) -> bool:
    """The word-boundary rule of the SurgViVQA paper.

    Its ceiling is below one: "<5" has no word boundary before it, "up" is no word of "upward".
    """
    return re.search(rf"\b{re.escape(short.lower())}\b", predicted.lower()) is not None


def tokens(text: str) -> list[str]:
    """Lower-case words and single punctuation marks."""
    return _WORD.findall(text.lower())


def _ngrams(sequence: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(sequence[at : at + order]) for at in range(len(sequence) - order + 1))


class _Overlap(NamedTuple):
    matched: tuple[int, ...]  # shared 1- to 4-grams
    possible: tuple[int, ...]  # 1- to 4-grams of the text
    reference_length: int
    text_length: int


@lru_cache(maxsize=4096)  # answers of a closed set repeat
def _overlap(reference: str, text: str) -> _Overlap:
    gold, said = tokens(reference), tokens(text)
    counts = [(_ngrams(gold, order), _ngrams(said, order)) for order in range(1, 5)]
    return _Overlap(
        tuple((wanted & found).total() for wanted, found in counts),
        tuple(found.total() for _, found in counts),
        len(gold),
        len(said),
    )


def bleu(pairs: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """Corpus BLEU-4 and 4-gram precision of ``(reference, text)`` pairs, both in 0..1.

    BLEU-4 is the geometric mean of the 1- to 4-gram precisions times the brevity penalty (Papineni
    et al. 2002), without smoothing. The paper prints the 4-gram precision under the name BLEU-4.
    """
    overlaps = [_overlap(reference, text) for reference, text in pairs]
    matched = [sum(one.matched[order] for one in overlaps) for order in range(4)]
    possible = [sum(one.possible[order] for one in overlaps) for order in range(4)]
    reference_length = sum(one.reference_length for one in overlaps)
    text_length = sum(one.text_length for one in overlaps)
    precisions = [hit / total if total else 0.0 for hit, total in zip(matched, possible, strict=True)]
    if min(precisions) == 0.0:
        return 0.0, precisions[3]
    brevity = min(1.0, math.exp(1 - reference_length / text_length))
    return brevity * math.exp(sum(map(math.log, precisions)) / 4), precisions[3]


@lru_cache(maxsize=4096)
def rouge_l(reference: str, text: str) -> float:
    """ROUGE-L F1: twice the longest common subsequence over the sum of both lengths."""
    gold, said = tokens(reference), tokens(text)
    if not gold or not said:
        return 0.0
    row = [0] * (len(said) + 1)
    for word in gold:
        diagonal = 0
        for at, other in enumerate(said, start=1):
            diagonal, row[at] = row[at], diagonal + 1 if word == other else max(row[at], row[at - 1])
    return 2 * row[-1] / (len(gold) + len(said))
