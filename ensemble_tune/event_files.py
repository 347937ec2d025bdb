"""Event files, as TensorBoard reads them: a run of its own for each trial of a ledger.

    DIR/base-0003/events.out.tfevents...   scalars of every epoch, and the trial's parameters for the HParams tab

Of an epoch there are its scores (iou/car for iou.car) and seconds; of a trial trial/score, at its best epoch, and
trial/seconds.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.api_pb2 import Status as SessionStatus
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata

from ensemble_tune.trial import Value
from ensemble_tune.tune.ledger import Ledger
from ensemble_tune.tune.record import EpochRecord, Status, TrialRecord


class RunEvents:
    """The event files of all trials of a ledger, which follow it."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self._ledger = ledger
        self._folder = folder
        self._trials: dict[str, TrialEvents] = {}

    def update(self) -> int:
        """Writes what the ledger has gained; how many trials it has. Raises RunError or OSError."""
        trials = self._ledger.trials()
        rows = defaultdict(list)
        for row in self._ledger.epochs():
            rows[row.trial].append(row)
        for record in trials:
            if record.trial not in self._trials:
                self._trials[record.trial] = TrialEvents(self._folder / record.trial)
            self._trials[record.trial].update(record, rows[record.trial])
        return len(trials)

    def close(self) -> None:
        """Closes every file."""
        for trial in self._trials.values():
            trial.close()


class TrialEvents:
    """One trial's event files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: list[tuple[int, int]] = []
        """Epoch and attempt of the rows that are in the files."""
        self._begun = False
        self._score: float | None = None
        """What the files say that the trial is worth."""
        self._over = False
        """Whether they say that it has ended."""
        self._file: EventsWriter | None = None

    def update(self, record: TrialRecord, rows: Sequence[EpochRecord]) -> None:
        """Brings the files to where the ledger is."""
        keys = [(row.epoch, row.attempt) for row in rows]
        if not self._begun or keys[: len(self._written)] != self._written:
            self._begin(record)
        for row in rows[len(self._written) :]:
            self._scalars(row.epoch, row.reported.timestamp(), {**row.scores, **_prefixed("seconds.", row.seconds)})
        self._written = keys
        if record.status is not Status.RUNNING:
            self._sum_up(record)
        if record.status is Status.RUNNING and self._file is not None:
            self._file.flush()
        else:
            self.close()  # thousands of trials may have ended

    def close(self) -> None:
        """Closes the file; a later row begins another, which TensorBoard reads after it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self, record: TrialRecord) -> None:
        """Starts over: TensorBoard forgets what older files say. They stay, since it may be reading them."""
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        older = any(self._folder.glob("events.out.tfevents.*"))
        self._begun, self._written, self._score, self._over = True, [], None, False
        if older:
            self._write(Event(step=0, session_log=SessionLog(status=SessionLog.START)))
        start = SessionStartInfo(start_time_secs=record.started.timestamp())
        for name, value in {**record.params, "seed": record.seed}.items():
            _set(start, name, value)
        self._write(_hparams("session_start_info", start, record.started.timestamp()))

    def _sum_up(self, record: TrialRecord) -> None:
        """What the trial is worth, and whether it ended well, where the files do not say so yet."""
        when = (record.ended or record.started).timestamp()
        if record.score is not None and record.best_epoch is not None and record.score != self._score:
            self._scalars(record.best_epoch, when, {"trial.score": record.score})
            self._score = record.score
        if record.status.is_end and not self._over:
            self._scalars(record.epochs, when, {"trial.seconds": record.seconds})
            status = "STATUS_SUCCESS" if record.ended_well else "STATUS_FAILURE"
            end = SessionEndInfo(status=SessionStatus.Value(status), end_time_secs=when)
            self._write(_hparams("session_end_info", end, when))
            self._over = True

    def _scalars(self, step: int, when: float, values: Mapping[str, float]) -> None:
        known = {name: value for name, value in values.items() if not math.isnan(value)}
        # TensorBoard puts into one section what shares a name up to the slash.
        summary = [Summary.Value(tag=name.replace(".", "/", 1), simple_value=value) for name, value in known.items()]
        self._write(Event(wall_time=when, step=step, summary=Summary(value=summary)))

    def _write(self, event: Event) -> None:
        if self._file is None:
            # TensorBoard reads files in the order of their names, which begin with the second.
            self._file = EventsWriter(str(self._folder / "events"), f".{time.time_ns()}")
        self._file.write_event(event)


def _prefixed(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {prefix + name: value for name, value in values.items()}


def _set(start: SessionStartInfo, name: str, value: Value) -> None:
    if isinstance(value, bool):
        start.hparams[name].bool_value = value
    elif isinstance(value, str):
        start.hparams[name].string_value = value
    else:
        start.hparams[name].number_value = value


def _hparams(kind: str, content: SessionStartInfo | SessionEndInfo, when: float) -> Event:
    """What the HParams tab reads, in the metadata of a summary without a value."""
    data = HParamsPluginData(**{kind: content})
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=data.SerializeToString())
    value = Summary.Value(tag=f"_hparams_/{kind}", metadata=SummaryMetadata(plugin_data=plugin))
    return Event(wall_time=when, summary=Summary(value=[value]))
