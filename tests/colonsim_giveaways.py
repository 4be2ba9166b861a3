"""What a model that sees nothing but giveaways can answer: mean colour, file size, frame number."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from scipy.optimize import minimize

from surgvivqa_audio.colonsim import Procedure, render
from surgvivqa_audio.colonsim.dataset import encode_jpeg

COLOUR_TYPES = {
    "nbi_status",
    "lighting_mode",
    "blue_dye_presence",
    "occlusion_check",
    "fluid_occlusion_level",
    "scope_outside",
    "mucosa_visibility",
}
Rows = dict[str, list[tuple[int, list[float], str]]]


def giveaway_rows(procedures: range, clips: int, size: int) -> Rows:
    """Per type: (procedure, mean RGB + JPEG bytes + frame number of the first frame, answer)."""
    rows: Rows = defaultdict(list)
    for seed in procedures:
        for index in range(clips):
            spec = Procedure(seed).clip(index, frames=2)
            frame = render(spec, size).frames[0]
            seen = [*frame.reshape(-1, 3).mean(0), float(len(encode_jpeg(frame))), spec.frame_numbers[0]]
            for name, answer in spec.answers.items():
                rows[name].append((seed, seen, answer))
    return rows


def excess_over_chance(rows: list[tuple[int, list[float], str]], folds: int = 5) -> float:
    """Balanced accuracy above 1/k of a class-weighted logistic regression, held-out procedures."""
    group = np.array([row[0] for row in rows])
    features = np.array([row[1] for row in rows])
    features = np.c_[(features - features.mean(0)) / features.std(0), np.ones(len(rows))]
    names, target = np.unique([row[2] for row in rows], return_inverse=True)
    guess = np.empty(len(rows), dtype=int)
    for fold in range(folds):
        held = group % folds == fold
        weights = _fit(features[~held], np.eye(len(names))[target[~held]])
        guess[held] = (features[held] @ weights).argmax(1)
    recalls = [(guess[target == number] == number).mean() for number in range(len(names))]
    return float(np.mean(recalls) - 1 / len(names))


def _fit(features: np.ndarray, one_hot: np.ndarray) -> np.ndarray:
    shape = (features.shape[1], one_hot.shape[1])
    share = one_hot / np.maximum(one_hot.sum(0), 1) / shape[1]
    rows = share.sum(1)[:, None]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        scores = features @ flat.reshape(shape)
        scores -= scores.max(1, keepdims=True)
        log_share = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        slope = features.T @ (rows * np.exp(log_share) - share)
        return float(-(share * log_share).sum() + 1e-3 * (flat**2).sum()), slope.ravel() + 2e-3 * flat

    found = minimize(loss, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B")
    return np.asarray(found.x.reshape(shape))
