"""`python soak.py KILLS SEED`: one search after another, its driver and its workers killed at random moments.

Prints a line a search; ends with an error at the first promise that does not hold. See `make soak`.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from counting_search import search
from counting_trial import check
from processes import session, wait_for

from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.ray_start import start_ray
from ensemble_tune.tune.record import Status, TrialRecord
from ensemble_tune.tune.sampler import make_sampler
from ensemble_tune.tune.scheduler import SCHEDULERS

DRIVER = Path(__file__).with_name("counting_search.py")
EPOCHS = 27


@dataclass
class Victim:
    """One search, whose processes are killed."""

    out: Path
    address: str
    """The Ray that its drivers join."""
    trials: int
    scheduler: str = "none"
    seconds: float = 0.05
    """An epoch's length."""
    kills: Counter[str] = field(default_factory=Counter)
    """How often a driver, a worker was killed."""

    def log(self) -> list[list[str]]:
        """Seed, epoch and process of every epoch trained so far."""
        path = self.out / "log"
        # A line may be half written.
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [line.split()[:3] for line in lines]

    def live(self, chance: random.Random, wanted: int) -> bool:
        """One driver's life, which it may outlive; kills it, or up to 3 workers first. Returns whether it ended."""
        command = (self.trials, EPOCHS, self.seconds, self.address, self.scheduler)
        # A Ray that was started on one machine lets in only who holds its token.
        with session(DRIVER, self.out, *map(str, command), RAY_AUTH_MODE="token") as driver:
            before = len(self.log())
            for _ in range(min(chance.randrange(3), wanted - 1)):
                wait_for(lambda: len(self.log()) > before or driver.poll() is not None)
                time.sleep(chance.uniform(0.0, 0.5))
                self._kill_a_worker(chance, since=before)
            # From its first moments, when it takes the search up, to the thick of it.
            until = time.monotonic() + chance.uniform(0.0, 6.0)
            while time.monotonic() < until and driver.poll() is None:
                time.sleep(0.01)
            if driver.poll() is None:
                driver.send_signal(signal.SIGKILL)
                self.kills["driver"] += 1
            return driver.wait(timeout=20) == 0

    def _kill_a_worker(self, chance: random.Random, since: int) -> None:
        pids = sorted({int(process) for _, _, process in self.log()[since:]})
        alive = [pid for pid in pids if (Path("/proc") / str(pid)).exists()]
        if alive:
            os.kill(chance.choice(alive), signal.SIGKILL)
            self.kills["worker"] += 1

    def finish(self) -> list[TrialRecord]:
        """Lets the search end, and holds it to its promises."""
        whole = search(self.out, self.trials, EPOCHS, 0.0, self.address, self.scheduler)
        whole.run()
        ledger = Ledger(self.out / LEDGER)
        trials, rows = ledger.trials(), ledger.epochs()
        check(trials, rows)
        assert [record.number for record in trials] == list(range(self.trials))
        assert {record.status for record in trials} <= {Status.FINISHED, Status.STOPPED}, trials
        assert whole.space is not None
        unbroken = make_sampler("random", whole.space, seed=whole.seed, objectives=())
        assert [dict(record.params) for record in trials] == [unbroken.propose(n) for n in range(self.trials)]
        if self.scheduler == "none":
            assert all((record.status, record.epochs) == (Status.FINISHED, EPOCHS) for record in trials)
        return trials


def main(kills: int, seed: int) -> None:
    """Kills until there were so many."""
    chance = random.Random(seed)
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # where workers find the trial
    start_ray()
    import ray

    address = ray.get_runtime_context().gcs_address
    total: Counter[str] = Counter()
    searches = 0
    while total.total() < kills:
        with tempfile.TemporaryDirectory() as folder:
            scheduler = chance.choice(SCHEDULERS)
            victim = Victim(Path(folder), address, trials=chance.randint(4, 12), scheduler=scheduler)
            while victim.kills.total() < min(25, kills - total.total()) and not victim.live(chance, 25):
                pass
            trials = victim.finish()
        searches += 1
        total += victim.kills
        print(
            f"search {searches}: {scheduler}, {len(trials)} trials, {sum(t.epochs for t in trials)} epochs, "
            f"{victim.kills['driver']} drivers and {victim.kills['worker']} workers killed; promises held",
            flush=True,
        )
    print(f"seed {seed}: {total['driver']} drivers and {total['worker']} workers killed in {searches} searches")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
