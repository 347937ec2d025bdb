"""`plan`: what another scheduler or a bigger cluster would have cost and found, from a run's ledger; no torch, no Ray.

Each simulated trial is a recorded one, drawn at random: none twice before all have been. A curve that is not complete,
because its trial was stopped early, goes on as the finished trial did that came nearest to it up to there: by the same
steps from its own last score, but never beyond the best score that a finished trial reached. It is a guess, which
is why the table says how many curves needed one.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.table import Table

from ensemble_tune.defaults import defaults_of
from ensemble_tune.errors import ConfigError, RunError, TrainingError
from ensemble_tune.results import read_run
from ensemble_tune.storage import Location
from ensemble_tune.tune.aim import metric_of, mode_of
from ensemble_tune.tune.decisions import Decisions, Goal
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import EpochRecord, Mode, Status, TrialRecord
from ensemble_tune.tune.sampler import NoSampler
from ensemble_tune.tune.scheduler import make_scheduler
from ensemble_tune.tune.simulator import Simulation, simulate

_RECORDED = "recorded"
"""The parameter that says which recorded trial a simulated one is."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What repeated simulations gave."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The middle and both ends."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """One way to search."""

    slots: int
    scheduler: str
    hours: Spread
    """Wall-clock."""
    slot_hours: Spread
    """Hours times slots, busy or not."""
    cost: Spread | None
    """None without a price."""
    score: Spread
    """The best that was found; nan where none was."""
    finished: Spread
    """Trials that were trained to their last epoch."""
    share: Spread
    """Epochs trained, as a share of what all these trials to their last epoch would be, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class PlanResult:
    """What each way would have cost and found."""

    stage: str
    metric: str
    trials: int
    """Of each simulated search."""
    repeats: int
    recorded: int
    """Trials of the ledger that were drawn from."""
    continued: int
    """How many of them had no complete curve."""
    slots_a_machine: float
    rows: tuple[PlanRow, ...]


def plan(
    run: Location,
    *,
    stage: str = "base",
    slots: Sequence[int] = (1, 4, 16),
    schedulers: Sequence[str] = ("asha-promote", "none"),
    trials: int = 100,
    grace: int | None = None,
    factor: int | None = None,
    price: float | None = None,
    repeats: int = 20,
    seed: int = 0,
) -> PlanResult:
    """Simulates each number of slots with each scheduler, several times. Raises RunError or ConfigError.

    grace, factor: of the schedulers; None is what the stage has. price: what a machine costs an hour; a machine has as
    many slots as the run's own, and is paid for whole. An epoch takes as long as it was recorded to; a worker starts,
    and a trial is set up, in the median of the recorded times.
    """
    if not slots or min(slots) < 1 or trials < 1 or repeats < 1:
        raise ConfigError(
            "a plan needs at least 1 slot, 1 trial and 1 repeat, but got "
            f"--slots {','.join(map(str, slots)) or 'none'}, --trials {trials} and {repeats} repeats"
        )
    if price is not None and not 0 < price < math.inf:
        raise ConfigError(f"--price must be above 0, but got {price:g}; leave it out for no cost")
    recorded = _Recorded.read(run, stage)
    own = defaults_of(stage)
    grace = own.grace(recorded.epochs) if grace is None else grace
    factor = own.factor if factor is None else factor
    for name in schedulers:
        make_scheduler(name, max_epochs=recorded.epochs, mode=recorded.mode, grace=grace, factor=factor)
    rows = []
    for count in slots:
        for name in schedulers:
            done = []
            for repeat in range(repeats):
                scheduler = make_scheduler(
                    name, max_epochs=recorded.epochs, mode=recorded.mode, grace=grace, factor=factor
                )
                points = recorded.draw(trials, random.Random(f"{seed}/{repeat}"))
                goal = Goal(stage=stage, metric=recorded.metric, mode=recorded.mode, keep=1)
                decisions = Decisions(goal, sampler=NoSampler(), scheduler=scheduler, points=points)
                try:
                    done.append(
                        simulate(decisions, recorded.curve, slots=count, start=recorded.start, between=recorded.set_up)
                    )
                except OverflowError:
                    raise RunError(
                        f"{trials} trials like those in {run} would take longer than any calendar; plan fewer, or "
                        "restore the ledger if its epochs were not so long"
                    ) from None
            rows.append(_row(count, name, done, recorded, price))
    return PlanResult(
        stage=stage,
        metric=recorded.metric,
        trials=trials,
        repeats=repeats,
        recorded=len(recorded.lines),
        continued=sum(line.guessed for line in recorded.lines),
        slots_a_machine=recorded.slots_a_machine,
        rows=tuple(rows),
    )


def plan_table(result: PlanResult) -> Table:
    """A plan for a person, in 80 columns."""
    table = Table(title_justify="left", title_style="bold", caption_justify="left", box=SIMPLE, padding=0)
    table.title = f"{result.trials} trials like those of stage {result.stage}, simulated {result.repeats} times"
    short = max(row.hours.high for row in result.rows) < 1
    unit, times = ("minutes", 60.0) if short else ("hours", 1.0)
    priced = any(row.cost is not None for row in result.rows)
    table.add_column("slots", justify="right", no_wrap=True)
    table.add_column("scheduler", no_wrap=True)
    spreads = (unit, f"best {result.metric}")
    for title in (unit, f"slot-{unit[0]}", *(["cost"] if priced else []), f"best {result.metric}", "full", "epochs"):
        table.add_column(title, justify="right", no_wrap=title not in spreads)
    for row in result.rows:
        cells = [_spread(row.hours, times), _number(row.slot_hours.median * times)]
        cells += [_number(row.cost.median)] if row.cost is not None else []
        cells += [_spread(row.score), f"{row.finished.median:.0f}", f"{row.share.median:.0%}"]
        table.add_row(str(row.slots), row.scheduler, *cells)
    table.caption = (
        "Median and range. Full: trials trained to their last epoch. Epochs: the share trained of all that these "
        f"trials could be. Drawn from {result.recorded} recorded trials; {result.continued} of their curves ended "
        "early, and go on as the nearest finished one did."
        + (f" Cost: of whole machines; slots of each, as in the run: {result.slots_a_machine:.3g}." if priced else "")
    )
    return table


@dataclass(frozen=True, slots=True)
class _Line:
    """One recorded trial, to its last epoch."""

    scores: list[float]
    seconds: list[float]
    """Of each epoch, without setting up."""
    guessed: bool = False
    """Whether its end was not recorded."""
    error: str | None = None
    """Why it failed after these epochs."""


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """What a ledger says of one stage."""

    lines: list[_Line]
    metric: str
    mode: Mode
    start: float
    set_up: float
    slots_a_machine: float

    @classmethod
    def read(cls, run: Location, stage: str) -> _Recorded:
        """Raises RunError where there is no run, or nothing to learn from."""
        records = {record.trial: record for record in read_run(run, stage)}
        rows: dict[str, list[EpochRecord]] = {trial: [] for trial in records}
        for row in Ledger(run / LEDGER).epochs(stage):
            rows.get(row.trial, []).append(row)
            if not all(0 <= seconds < math.inf for seconds in row.seconds.values()):
                raise RunError(
                    f"an epoch takes a number of seconds from 0, but {run / LEDGER} has another one of {row.trial}, "
                    f"epoch {row.epoch}; restore the ledger"
                )
        finished = [
            r for r in records.values() if r.status is Status.FINISHED and r.score is not None and rows[r.trial]
        ]
        if not finished:
            raise RunError(
                f"a plan needs a finished trial to learn from, but stage {stage} of {run} has none; "
                "let the search go on until one has finished"
            )
        metric = metric_of(finished, run / LEDGER / "trials")
        curves = {trial: [row.scores.get(metric, math.nan) for row in own] for trial, own in rows.items()}
        mode = mode_of(finished, curves)
        complete = [_Line(curves[r.trial], [_busy(row) for row in rows[r.trial]]) for r in finished]
        best = (max if mode == "max" else min)(record.score for record in finished if record.score is not None)
        lines = []
        for record in records.values():
            line = _Line(curves[record.trial], [_busy(row) for row in rows[record.trial]])
            if record.status is Status.FINISHED:
                lines += [line] if line.scores else []
            elif record.status.is_infeasible:
                lines.append(_Line(line.scores, line.seconds, error=record.error or "failed"))
            elif line.scores:
                lines.append(_continued(line, complete, best, mode))
        all_rows = [row for own in rows.values() for row in own]
        return cls(
            lines=lines,
            metric=metric,
            mode=mode,
            start=_median([row.seconds["start"] for row in all_rows if row.seconds.get("start")]),
            set_up=_median([row.seconds["set_up"] for row in all_rows if "set_up" in row.seconds]),
            slots_a_machine=_slots_a_machine(run, stage),
        )

    @property
    def epochs(self) -> int:
        """The longest trial's."""
        return max(len(line.scores) for line in self.lines)

    def draw(self, trials: int, chance: random.Random) -> list[dict[str, int]]:
        """So many trials in random order, none twice before all have been."""
        drawn: list[int] = []
        while len(drawn) < trials:
            drawn += chance.sample(range(len(self.lines)), len(self.lines))
        return [{_RECORDED: index} for index in drawn[:trials]]

    def line(self, record: TrialRecord) -> _Line:
        """The recorded trial that a simulated one is."""
        return self.lines[int(record.params[_RECORDED])]

    def curve(self, record: TrialRecord) -> Iterator[tuple[Mapping[str, float], float]]:
        """For the simulator."""
        line = self.line(record)
        for score, seconds in zip(line.scores[record.epochs :], line.seconds[record.epochs :], strict=True):
            yield {self.metric: score}, seconds
        if line.error is not None:
            raise TrainingError(line.error)


def _row(slots: int, scheduler: str, done: Sequence[Simulation], recorded: _Recorded, price: float | None) -> PlanRow:
    hours = [each.seconds / 3600 for each in done]
    machines = math.ceil(slots / recorded.slots_a_machine)
    whole = [sum(len(recorded.line(record).scores) for record in each.records) for each in done]
    return PlanRow(
        slots=slots,
        scheduler=scheduler,
        hours=Spread.of(hours),
        slot_hours=Spread.of([slots * each for each in hours]),
        cost=None if price is None else Spread.of([machines * price * each for each in hours]),
        score=Spread.of([each.finds[-1].score if each.finds else math.nan for each in done]),
        finished=Spread.of([sum(record.status is Status.FINISHED for record in each.records) for each in done]),
        share=Spread.of([each.epochs / max(1, most) for each, most in zip(done, whole, strict=True)]),
    )


def _continued(line: _Line, finished: Sequence[_Line], best: float, mode: Mode) -> _Line:
    """A curve that ended early, as long as the finished one that is nearest to it up to there."""
    have = len(line.scores)
    longer = [other for other in finished if len(other.scores) > have]
    if not longer:
        return line
    nearest = min(longer, key=lambda other: _distance(line.scores, other.scores))
    steps = [score - nearest.scores[have - 1] for score in nearest.scores[have:]]
    bound = min if mode == "max" else max
    # A score that is not a number stays none.
    guesses = [line.scores[-1] + step for step in steps]
    guesses = [guess if math.isnan(guess) else bound(guess, best) for guess in guesses]
    return _Line(line.scores + guesses, line.seconds + [_median(line.seconds)] * len(guesses), guessed=True)


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    """The mean squared difference over the epochs of `one`; infinite where nothing can be compared."""
    squares = [(a - b) ** 2 for a, b in zip(one, other, strict=False) if not math.isnan(a - b)]
    return statistics.fmean(squares) if squares else math.inf


def _busy(row: EpochRecord) -> float:
    return row.busy - row.seconds.get("set_up", 0.0)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


def _slots_a_machine(run: Location, stage: str) -> float:
    """Of the stage's last session that lasted; 1 where none did."""
    for session in reversed(Ledger(run / LEDGER).sessions(stage)):
        hours = ((session.ended or session.updated) - session.started).total_seconds() / 3600
        nodes = session.node_hours / hours if hours > 0 else math.nan
        if 0 < nodes < math.inf:
            return max(1.0, session.slots / max(1, round(nodes)))
    return 1.0


def _spread(spread: Spread, times: float = 1.0) -> str:
    median, low, high = (_number(value * times) for value in (spread.median, spread.low, spread.high))
    return median if low == high else f"{median} {low}-{high}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
