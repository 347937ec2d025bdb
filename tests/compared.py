"""Fusions with evidence drawn by chance, to be compared."""

from collections.abc import Mapping

import numpy as np

from ensemble_tune.comparison import Candidate
from ensemble_tune.ensemble.evidence import Evidence

CLASSES = ("sky", "road", "pole", "never")


def evidence(accuracy: float, block: int, *, seed: int = 0) -> Evidence:
    """40 frames of a sequence, on which a model is right as often as told."""
    chance = np.random.default_rng([block, seed])
    hits = np.clip(chance.normal(100 * accuracy, 4, (40, 3)), 0, 100).astype(np.int64)
    confusions = np.zeros((40, 4, 4), np.int64)
    for label in range(3):
        confusions[:, label, label] = hits[:, label]
        confusions[:, label, (label + 1) % 3] = 100 - hits[:, label]
    return Evidence(
        of=f"{accuracy}",
        classes=CLASSES,
        small=("pole",),
        names=tuple(f"{block}_{row}" for row in range(40)),
        sequences=(str(block),) * 40,
        confusions=confusions,
        calibration=np.array([[100.0, 70.0, 80.0]]),
    )


def candidate(
    name: str, accuracy: float, seed: int = 0, *, trial: str | None = None, costs: Mapping[str, float] | None = None
) -> Candidate:
    """A fusion that is right as often as told in three blocks and on val; the seed is of its luck."""
    blocks = tuple(evidence(accuracy, block, seed=seed) for block in (1, 2, 3))
    return Candidate(
        name=name,
        trial=trial or f"meta-{name}",
        epochs=7,
        blocks=blocks,
        val=evidence(accuracy, 0, seed=seed),
        costs={"milliseconds": 4.0} if costs is None else costs,
    )
