"""Errors a user can act on: each message names the file, the row or key, and the remedy."""

from __future__ import annotations


class SurgVivqaError(Exception):
    """Base of every error that is reported to the user as one line, without a traceback."""


class BadAnnotation(SurgVivqaError):
    """A row, table or box file does not follow its schema."""


class UnknownQuestionType(SurgVivqaError):
    """A question type that the taxonomy does not define."""


class MissingFrame(SurgVivqaError):
    """A frame that a sample names is not in the frame store."""


class BadImage(SurgVivqaError):
    """An image or video that cannot be decoded, is over a size cap or has a refused format."""


class MissingAudio(SurgVivqaError):
    """No recording exists for a question that should be spoken."""


class BadAudio(SurgVivqaError):
    """A recording that is empty, too long, over a size cap or cannot be decoded."""


class SpeechError(SurgVivqaError):
    """A speech synthesis engine failed or does not have the voice asked for."""


class ConfigError(SurgVivqaError):
    """A recipe, option or taxonomy file with a wrong or unknown value."""


class ModelError(SurgVivqaError):
    """A checkpoint that is incomplete, corrupted or of the wrong shape."""


class PlaceholderMismatch(ModelError):
    """The number of placeholder tokens differs from the number of features of that sample."""


class FetchError(SurgVivqaError):
    """A download that failed, or whose bytes do not match the expected checksum."""


class MissingExtra(SurgVivqaError):
    """An optional dependency is needed; the message names the extra that brings it."""
