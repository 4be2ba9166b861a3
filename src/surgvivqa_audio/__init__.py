"""Spoken questions about surgical video, answered by one network that hears and sees.

Research software; not for clinical use.
"""

__version__ = "0.1.0"
