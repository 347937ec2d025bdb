"""Whether the automatic precision costs accuracy: val mIoU with it and with float32, over three seeds or more.

python benchmarks/precision.py CAMVID [EPOCHS] [SEEDS]

U-Net with mobilenet_v2 from random weights at 96x128; the seeds vary weights, order and augmentation.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

import torch

from ensemble_tune.ensemble.base_trial import BaseTrial
from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.ensemble.precision import number_type
from ensemble_tune.settings import METRIC, Settings
from ensemble_tune.tune.search import Search

PRECISIONS = ("float32", "auto")


def main(data: str, epochs: int, seeds: int) -> None:
    """Prints each seed's best mIoU, then the means."""
    print(f"auto is {number_type('auto', torch.device('cpu'))} on this processor")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data=data, out=Path(folder) / "run", cache=Path(folder) / "cache")
        configs = [
            BaseConfig(size=(96, 128), epochs=epochs, precision=precision, seed=seed)  # type: ignore[arg-type]
            for seed in range(seeds)
            for precision in PRECISIONS
        ]
        records = (
            Search(
                trial=BaseTrial(data=settings.stage_data()),
                metric=METRIC,
                stage="base",
                keep=1,
                out=settings.out,
                max_epochs=epochs,
                points=[config.to_params() for config in configs],
                workers=settings.workers,
            )
            .run()
            .records
        )
    found: dict[str, list[float]] = {}
    for precision in PRECISIONS:
        found[precision] = [r.score or 0.0 for r in records if r.params["precision"] == precision]
        own = found[precision]
        print(
            f"{precision:8} mIoU {' '.join(f'{score:.4f}' for score in own)}  mean {statistics.mean(own):.4f}  "
            f"standard deviation over seeds {statistics.stdev(own):.4f}"
        )
    gaps = [auto - exact for auto, exact in zip(found["auto"], found["float32"], strict=True)]
    error = statistics.stdev(gaps) / len(gaps) ** 0.5
    print(f"difference of the same seed: mean {statistics.mean(gaps):+.4f}, standard error {error:.4f}")


if __name__ == "__main__":
    epochs, seeds = (int(word) for word in (*sys.argv[2:4], *("6", "3")[len(sys.argv[2:4]) :]))
    main(sys.argv[1], epochs, seeds)
