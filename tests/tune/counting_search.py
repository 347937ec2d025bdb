"""`python counting_search.py OUT TRIALS EPOCHS SECONDS ADDRESS [SCHEDULER]`: a search of a plain trial, for killing."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from counting_trial import CountingTrial

from ensemble_tune.storage import Location, location
from ensemble_tune.tune.interrupts import Interrupted
from ensemble_tune.tune.search import Search
from ensemble_tune.tune.search_space import SearchSpace
from ensemble_tune.tune.workers import Workers


def search(
    out: Location, trials: int, epochs: int, seconds: float, address: str | None = None, scheduler: str = "none"
) -> Search:
    """A random search over one parameter; on a disk its trials log what they do."""
    space = SearchSpace.parse(f"[parameters]\nrate = {{ low = 0.0, high = 1.0 }}\nepochs = {epochs}")
    return Search(
        trial=CountingTrial(seconds=seconds, log=out / "log" if isinstance(out, Path) else None),
        metric="score",
        stage="base",
        trials=trials,
        keep=2,
        sampler="random",
        scheduler=scheduler,
        out=out,
        max_epochs=epochs,
        space=space,
        workers=Workers(address=address),
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    out, trials, epochs, seconds, address, *scheduler = sys.argv[1:]
    location(out).mkdir(exist_ok=True)
    try:
        search(location(out), int(trials), int(epochs), float(seconds), address or None, *scheduler).run()
    except Interrupted:
        sys.exit(130)
