"""Memory of 8 trials on one node against 1: frames and predictions are mapped once, whoever reads them.

python benchmarks/memory.py CAMVID [ROUNDS]

Meta-models with the image as input train on the predictions of one base model at 120x160. Shown are the resident size
of the mapped files, summed over the workers as if each had its own, and the proportional size, in which a page that
several share is divided among them: that is what the machine holds.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

from ensemble_tune.base_search import search_base
from ensemble_tune.ensemble.config import MetaConfig
from ensemble_tune.ensemble.meta_trial import BASES, DEPLOY, MEMBERS, STACKING, MetaTrial
from ensemble_tune.library import member_config, predict
from ensemble_tune.meta_search import predicted_parts
from ensemble_tune.settings import METRIC, PREDICTIONS, Settings
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.search import Search
from ensemble_tune.tune.workers import Workers

SIZE, EPOCHS = "120x160", 2
_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)")


def main(data: str, rounds: int) -> None:
    """Prints a row for 1 and for 8 trials, round after round."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data=data, out=Path(folder) / "run", cache=Path(folder) / "cache")
        frames = settings.stage_data()
        with settings.workers:
            found = search_base(settings, space="base-small", trials=1, epochs=1, size=SIZE)
            assert found.best is not None
            members = {found.best.trial: member_config(found.best)}
            predict(settings, frames, members, predicted_parts(frames, ("refit",), "out-of-fold"))
        print("trials  mapped files MiB: as if each had its own  as the machine holds  a worker's own MiB (each)")
        for number, trials in [(number, trials) for number in range(rounds) for trials in (1, 8)]:
            config = MetaConfig.from_params(
                {"kind": "plain", "width": 8, "depth": 1, "use_image": True, "size": SIZE, "epochs": EPOCHS}
            )
            own = {MEMBERS: ",".join(members), BASES: "all", DEPLOY: "refit", STACKING: "out-of-fold"}
            search = Search(
                trial=MetaTrial(data=frames, store=settings.out.absolute() / PREDICTIONS, library=members),
                metric=METRIC,
                stage="meta",
                keep=1,
                out=Path(folder) / f"meta-{trials}-{number}",
                max_epochs=EPOCHS,
                points=[{**config.to_params(), **own, "seed": number} for number in range(trials)],
                workers=Workers(Resources(cpus=len(os.sched_getaffinity(0)) / trials, gpus=0)),
            )
            peak = _Peak(Path(folder))
            peak.start()
            search.run()
            peak.stop.set()
            peak.join()
            print(
                f"{trials:6}  {peak.resident / 1024:8.1f}  {peak.proportional / 1024:8.1f}  "
                f"{peak.private / 1024 / max(1, peak.workers):8.1f}  ({peak.workers} workers)",
                flush=True,
            )


class _Peak(threading.Thread):
    """Watches the workers that map files under a folder; keeps the moment at which they mapped most."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder = str(folder)
        self.stop = threading.Event()
        self.resident = self.proportional = self.private = self.workers = 0

    def run(self) -> None:
        while not self.stop.wait(0.25):
            sizes: dict[str, int] = defaultdict(int)
            workers = 0
            for process in Path("/proc").glob("[0-9]*"):
                if process.name != str(os.getpid()):
                    mapped, private = self._of(process)
                    if mapped["Rss"]:
                        workers += 1
                        sizes["Rss"] += mapped["Rss"]
                        sizes["Pss"] += mapped["Pss"]
                        sizes["private"] += private
            if sizes["Rss"] > self.resident:
                self.resident, self.proportional = sizes["Rss"], sizes["Pss"]
                self.private, self.workers = sizes["private"], workers

    def _of(self, process: Path) -> tuple[dict[str, int], int]:
        """KiB of a process's mappings of files under the folder; and what is its own alone."""
        sizes: dict[str, int] = defaultdict(int)
        private, path = 0, ""
        try:
            lines = (process / "smaps").read_text(encoding="utf-8").splitlines()
        except OSError:
            return sizes, 0
        for line in lines:
            if mapping := _MAPPING.fullmatch(line):
                path = mapping[1]
                continue
            name, _, rest = line.partition(":")
            if name in ("Rss", "Pss") and path.startswith(self.folder):
                sizes[name] += int(rest.split()[0])
            if name in ("Private_Clean", "Private_Dirty"):
                private += int(rest.split()[0])
        return sizes, private


if __name__ == "__main__":
    started = time.perf_counter()
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3)
    print(f"took {time.perf_counter() - started:.0f} s")
