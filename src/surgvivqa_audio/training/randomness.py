"""Every random generator of a process as JSON, and back."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from surgvivqa_audio.training.checkpoint_files import pack_state, unpack_state


def random_state() -> dict[str, Any]:
    """States of Python's, NumPy's and torch's generators (CUDA: of every card seen) as JSON."""
    numpy_state = np.random.get_state(legacy=False)
    cards = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": pack_state(random.getstate(), {}),
        "numpy": {
            **numpy_state,
            "state": {k: np.asarray(v).tolist() for k, v in numpy_state["state"].items()},
        },
        "torch": bytes(torch.get_rng_state().tolist()).hex(),
        "cuda": [bytes(card.tolist()).hex() for card in cards],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore what :func:`random_state` returned; cards that are not there any more are left out."""
    random.setstate(unpack_state(state["python"], {}))
    generator = dict(state["numpy"])
    inner = generator["state"]
    generator["state"] = {"key": np.asarray(inner["key"], dtype=np.uint32), "pos": inner["pos"]}
    np.random.set_state(generator)
    torch.set_rng_state(torch.tensor(list(bytes.fromhex(state["torch"])), dtype=torch.uint8))
    if torch.cuda.is_available():
        for card, content in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(torch.tensor(list(bytes.fromhex(content)), dtype=torch.uint8), card)
