"""Written question to speakable words: brackets, units, digits and abbreviations."""

from __future__ import annotations

import re

_ONES = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_RULES: tuple[tuple[str, str], ...] = (
    (r"[\x00-\x1f\x7f]", " "),
    (r"[≤]|<=", " at most "),
    (r"[≥]|>=", " at least "),
    (r"<", " less than "),
    (r">", " more than "),
    (r"(\d)\s*[-–—]\s*(\d)", r"\1 to \2"),
    (r"\b1\s*mm\b", "1 millimeter"),
    (r"(?<=\d)\s*mm\b|\bmm\b", " millimeters"),
    (r"(?<=\d)\s*cm\b|\bcm\b", " centimeters"),
    (r"%", " percent"),
    (r"&", " and "),
    (r"(?<=\w)\s*/\s*(?=\w)", " or "),
    (r"\s*\(\s*", ", "),
    (r"\s*\)\s*", " "),
    (r"[\[\]{}|\\^~_*#@\"]", " "),
)
_ABBREVIATION = re.compile(r"\b[A-Z]{2,5}\b")


def number_words(value: int) -> str:
    """English words of 0 to 999."""
    if value < 20:
        return _ONES[value]
    if value < 100:
        tens, ones = divmod(value, 10)
        return _TENS[tens - 2] + (f" {_ONES[ones]}" if ones else "")
    hundreds, rest = divmod(value, 100)
    return f"{_ONES[hundreds]} hundred" + (f" {number_words(rest)}" if rest else "")


def _digits(match: re.Match[str]) -> str:
    digits = match.group()
    if len(digits) > 3:  # identifiers are read digit by digit
        return " ".join(_ONES[int(digit)] for digit in digits)
    return number_words(int(digits))


def speakable(text: str) -> str:
    """What a person would say: ``(<5 mm, 5-9 mm)`` becomes "less than five millimeters, …".

    Capital abbreviations are spelled (NBI becomes "N B I"). Applying it twice changes nothing.
    """
    for pattern, replacement in _RULES:
        text = re.sub(pattern, replacement, text)
    text = re.sub(r"(\d)\.(\d)", r"\1 point \2", text)
    text = re.sub(r"[0-9]+", _digits, text)
    text = _ABBREVIATION.sub(lambda match: " ".join(match.group()), text)
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\s+([,.;:?!])", r"\1", text)
    text = re.sub(r"([?!.,;:]),", r"\1", text)
    return text.strip(" ,")
