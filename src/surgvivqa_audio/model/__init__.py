"""Tensors only: encoder, projector, fusion, the graft and its loading. Knows nothing of files or prompts.

Notation of shapes: b batch, s tokens, a audio tokens, f frames, m mel bins, t mel frames, d width.
"""
