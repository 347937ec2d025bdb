"""What the ledger costs a search to write, and its reader to query.

python benchmarks/ledger.py [TRIALS ...] [--rows-a-second N] [--slots N] [--rounds N] [--no-query]

A search of TRIALS trials, 16 at once, of at most 50 epochs, reports N rows a second (1,000) of a virtual clock, to
which the driver's real time is added: a flush that takes long puts off the next, as in a search. After each row it does
what the conductor does: puts the epoch's row and the trial's, and flushes if that is due. "all" trains every trial to
the end; "promote" pauses trials at rungs and goes on with some much later, so that parts written long ago change again.

The search's own time, without a ledger, is taken off. A trial's milliseconds are those of its rows among the trials,
written anew after each of its epochs; an epoch's are those of all rows, its trial's included. The query is over
1,000,000 epoch rows.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ensemble_tune.tune.ledger import Ledger
from ensemble_tune.tune.record import EpochRecord, Status, TrialRecord, trial_name

EPOCHS, RUNGS = 50, (2, 6, 18, 50)
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
SCORES = ["miou", "loss", "train_loss", "accuracy", *(f"iou.class{number}" for number in range(11))]
ENCODERS = ["resnet18", "resnet34", "resnet50", "mobilenet_v2", "efficientnet-b0"]


def main() -> None:
    """Prints a row a size, then a row a query."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=int, nargs="*", default=[100, 1_000, 10_000])
    parser.add_argument("--rows-a-second", type=float, default=1_000)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-query", action="store_true")
    given = parser.parse_args()
    print(f"{given.slots} slots, {given.rows_a_second:g} rows a second; median (least, most) of {given.rounds}")
    print(
        "search   trials  epoch rows  CPU ms a trial         CPU ms an epoch row     wall ms a row  CPU ms a flush  MB"
    )
    measure("promote", 200, given.slots, given.rows_a_second, seed=0)  # what is imported late is no search's cost
    for search in ("all", "promote"):
        for trials in given.trials:
            rounds = [measure(search, trials, given.slots, given.rows_a_second, seed) for seed in range(given.rounds)]
            rows = rounds[0]["rows"]
            print(
                f"{search:7} {trials:7,} {rows:11,}  {spread([r['of_trials'] / trials * 1e3 for r in rounds]):21}"
                f"  {spread([r['cpu'] / r['rows'] * 1e3 for r in rounds]):22}"
                f"  {statistics.median(r['wall'] / r['rows'] * 1e3 for r in rounds):13.4f}"
                f"  {statistics.median(r['cpu'] / r['flushes'] * 1e3 for r in rounds):14.1f}  {rounds[0]['mb']:.1f}",
                flush=True,
            )
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")
    if not given.no_query:
        query(given.rounds)


def measure(search: str, trials: int, slots: int, rows_a_second: float, seed: int) -> dict[str, float]:
    """CPU and wall seconds of all ledger work of one search, its rows, flushes and megabytes."""
    bare_cpu, bare_wall, _, _ = drive(None, Clock(), search, trials, slots, rows_a_second, seed)
    took = {}
    for puts in (("epochs",), ("epochs", "trials")):
        with tempfile.TemporaryDirectory() as folder:
            clock = Clock()
            ledger = Ledger(Path(folder) / "ledger", clock=clock)
            ledger.open()
            took[puts], wall, rows, flushes = drive(ledger, clock, search, trials, slots, rows_a_second, seed, puts)
            ledger.close()
            size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
    without, cpu = took.values()
    return {
        "cpu": cpu - bare_cpu,
        "of_trials": cpu - without,
        "wall": wall - bare_wall,
        "rows": rows,
        "flushes": flushes,
        "mb": size / 1e6,
    }


class Clock:
    """Virtual seconds in which trials train, and the real ones that the driver works meanwhile."""

    trained = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.trained + time.perf_counter()


def drive(
    ledger: Ledger | None,
    clock: Clock,
    search: str,
    trials: int,
    slots: int,
    rows_a_second: float,
    seed: int,
    puts: Sequence[str] = ("epochs", "trials"),
) -> tuple[float, float, int, int]:
    """CPU and wall seconds of a whole search, how many epochs it had, and how often it flushed."""
    rows = flushes = 0
    cpu, wall = time.process_time(), time.perf_counter()
    records: dict[int, TrialRecord] = {}
    for number, epoch, ends in steps(search, trials, slots, seed):
        row = epoch_record(number, epoch)
        record = records.pop(number, None) or trial_record(number)
        record = record.with_epoch(row, "miou", "max", "best")
        if ends:
            record = replace(record, status=Status.FINISHED if epoch == EPOCHS else Status.PAUSED, ended=row.reported)
        if not ends or search == "promote":
            records[number] = record
        clock.trained += 1 / rows_a_second
        rows += 1
        if ledger is not None:
            if epoch == 1:
                ledger.drop_epochs_after(record, 0)
            ledger.put_epoch(row)
            if "trials" in puts:
                ledger.put_trial(record)
            flushes += ledger.flush_if_due()
    if ledger is not None:
        flushes += ledger.flush()
    return time.process_time() - cpu, time.perf_counter() - wall, rows, flushes


def steps(search: str, trials: int, slots: int, seed: int) -> Iterator[tuple[int, int, bool]]:
    """Trial, epoch and whether it ends or pauses there, of trials that train beside each other."""
    choose = random.Random(seed)
    rungs = (EPOCHS,) if search == "all" else RUNGS
    paused: list[tuple[int, int]] = []
    running: list[tuple[int, int, int]] = []
    new = iter(range(trials))
    started = 0
    while running or started < trials:
        while len(running) < slots and started < trials:
            if paused and choose.random() < 0.33:
                number, rung = paused.pop(choose.randrange(len(paused)))
                running.append((number, rungs[rung] + 1, rung + 1))
            else:
                running.append((next(new), 1, 0))
                started += 1
        number, epoch, rung = running.pop(choose.randrange(len(running)))
        ends = epoch == rungs[rung]
        yield number, epoch, ends
        if not ends:
            running.append((number, epoch + 1, rung))
        elif epoch < EPOCHS:
            paused.append((number, rung))


def trial_record(number: int) -> TrialRecord:
    return TrialRecord(
        trial=trial_name("base", number),
        stage="base",
        number=number,
        status=Status.RUNNING,
        params={"encoder": ENCODERS[number % 5], "batch": 8, **{f"rate{i}": number / (i + 1) for i in range(10)}},
        seed=number,
        sampler="tpe",
        started=BEGIN + timedelta(seconds=number),
        provenance={"data": "c0ffee", "git": "4f0c2a", "torch": "2.9", "space": "1234"},
    )


def epoch_record(number: int, epoch: int) -> EpochRecord:
    return EpochRecord(
        trial=trial_name("base", number),
        stage="base",
        number=number,
        attempt=1,
        epoch=epoch,
        scores={
            name: (number * 0.618034 + epoch * 0.414214 + place * 0.732051) % 1 for place, name in enumerate(SCORES)
        },
        seconds={"train": 1.5 + epoch / 100, "evaluate": 0.5, "checkpoint": 0.1, "other": 0.01},
        reported=BEGIN + timedelta(seconds=number * 60 + epoch),
        worker=f"host{number % 4}/{number % 16}",
    )


def query(rounds: int) -> None:
    """Seconds of group-bys over a million epoch rows, files opened and read included."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger")
        ledger.open()
        for number in range(1_000_000 // EPOCHS):
            record = trial_record(number)
            for epoch in range(1, EPOCHS + 1):
                row = epoch_record(number, epoch)
                ledger.put_epoch(row)
                record = record.with_epoch(row, "miou", "max", "best")
            ledger.put_trial(record)
            ledger.flush_if_due()
        ledger.close()
        parts = len(list(ledger.folder.glob("*/*.parquet")))
        print(f"\nmean miou over 1,000,000 epoch rows in {parts} parts, wall seconds: median (least, most) of {rounds}")
        for name, ask in {**arrow_queries(Path(folder) / "ledger"), **other_queries(Path(folder) / "ledger")}.items():
            took = []
            for _ in range(rounds):
                started = time.perf_counter()
                groups = ask()
                took.append(time.perf_counter() - started)
            print(f"{name:50} {spread(took)}  {groups} groups")


def arrow_queries(folder: Path) -> dict[str, Callable[[], int]]:
    """Group-bys in Arrow alone: by a parameter, for which the trials are joined, and by columns of the epochs."""

    def by(column: str) -> int:
        table = pq.read_table(folder / "epochs", columns=[column, "score.miou"])
        return len(table.group_by(column).aggregate([("score.miou", "mean")]))

    def by_parameter() -> int:
        epochs = pq.read_table(folder / "epochs", columns=["stage", "number", "score.miou"])
        trials = pq.read_table(folder / "trials", columns=["stage", "number", "param.encoder"])
        # Arrow joins no dictionaries of unlike indices.
        epochs, trials = (t.set_column(0, "stage", t["stage"].cast("string")) for t in (epochs, trials))
        joined = epochs.join(trials, ["stage", "number"])
        return len(joined.group_by("param.encoder").aggregate([("score.miou", "mean")]))

    return {
        "pyarrow, by param.encoder": by_parameter,
        "pyarrow, by stage": lambda: by("stage"),
        "pyarrow, by worker": lambda: by("worker"),
    }


def other_queries(folder: Path) -> dict[str, Callable[[], int]]:
    """The same by a parameter, in what else is installed."""
    queries: dict[str, Callable[[], int]] = {}
    if importlib.util.find_spec("duckdb"):
        import duckdb

        sql = f"""select t."param.encoder", avg(e."score.miou") from '{folder}/epochs/*.parquet' e
            join '{folder}/trials/*.parquet' t using (trial) group by all"""
        queries["duckdb, by param.encoder"] = lambda: len(duckdb.execute(sql).fetchall())
    if importlib.util.find_spec("polars"):
        import polars

        def by_parameter() -> int:
            epochs, trials = (polars.scan_parquet(folder / table / "*.parquet") for table in ("epochs", "trials"))
            means: Any = epochs.join(trials, on="trial").group_by("param.encoder").agg(polars.col("score.miou").mean())
            return int(means.collect().height)

        queries["polars, by param.encoder"] = by_parameter
    return queries


def spread(values: Sequence[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.4f} ({min(values):.4f}, {max(values):.4f})"


if __name__ == "__main__":
    main()
