import errno
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import BEGIN, epoch_record, trial_record
from s3_server import Proxy
from small_disk import fill, small_disk

from ensemble_tune.errors import EnsembleTuneError, RunError, StorageFullError
from ensemble_tune.object_path import ObjectPath
from ensemble_tune.storage import Location, arrow_file
from ensemble_tune.tune import ledger_table
from ensemble_tune.tune.ledger import Ledger
from ensemble_tune.tune.record import EpochRecord, Status, TrialRecord
from ensemble_tune.tune.session import SessionRecord


def full(number: int, stage: str = "base") -> TrialRecord:
    return trial_record(
        number,
        stage=stage,
        status=[Status.FINISHED, Status.STOPPED, Status.FAILED, Status.RUNNING][number % 4],
        params={"rate": 0.5, "batch": 8, "kind": "unet", "image": True},
        seed=2**31 - 1,
        sampler="tpe",
        attempt=2,
        epochs=3,
        best_epoch=2,
        score=0.25,
        scores={"miou": 0.25, "iou.car": math.nan},
        seconds=4.5,
        error="it broke" if number % 4 == 2 else None,
        provenance={"data": "abc", "torch": "2.0"},
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "run" / "ledger")
    ledger.open()
    yield ledger
    ledger.close()


@pytest.fixture
def anywhere(place: Location) -> Iterator[Ledger]:
    """On a disk, and in an object store."""
    ledger = Ledger(place / "ledger")
    ledger.open()
    yield ledger
    ledger.close()


def fresh(ledger: Ledger) -> Ledger:
    return Ledger(ledger.folder)


def columns_of(folder: Location) -> Iterator[str]:
    for path in (*(folder / "trials").glob("*.parquet"), *(folder / "epochs").glob("*.parquet")):
        with arrow_file(path) as file:
            yield from pq.ParquetFile(file).schema_arrow.names


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def session(number: int = 1) -> SessionRecord:
    return SessionRecord(stage="base", session=number, started=BEGIN, updated=BEGIN, slots=1, host="node", pid=1)


def plain(rows: list[TrialRecord] | list[EpochRecord]) -> list[str]:
    """Rows as text, in which nan equals nan; columns are sorted by name."""
    texts = []
    for row in rows:
        values = asdict(row)
        for name, value in values.items():
            if isinstance(value, dict):
                values[name] = sorted(value.items())
            if isinstance(value, datetime):
                values[name] = value.astimezone(UTC).isoformat()
        texts.append(repr(values))
    return texts


def test_memory_is_kept_beside_rows_of_before_it_was(anywhere: Ledger) -> None:
    """Of an earlier version, or without a GPU, there are no such columns; they come with the first row."""
    old, new = (
        full(0),
        replace(full(1), status=Status.OUT_OF_MEMORY, gpu={"share": 0.25, "estimated": 3e9, "measured": 2.5e9}),
    )
    row = replace(epoch_record(1, 1), gpu={"share": 0.25, "measured": 2.5e9, "card": "3f2a/0"})
    for trial, epoch in ((old, epoch_record(0, 1)), (new, row)):
        anywhere.put_trial(trial)
        anywhere.put_epoch(epoch)
        assert anywhere.flush()
        if trial is old:
            assert not any(name.startswith("gpu.") for name in columns_of(anywhere.folder))
            assert plain(fresh(anywhere).trials()) == plain([old])
    assert plain(fresh(anywhere).trials()) == plain([old, new])
    assert [epoch.gpu for epoch in fresh(anywhere).epochs()] == [{}, row.gpu]


def test_what_is_written_is_read_back_as_it_was(anywhere: Ledger) -> None:
    trials = [full(number) for number in range(5)]
    epochs = [
        epoch_record(number, epoch, {"miou": 0.1, "iou.car": math.nan}) for number in range(5) for epoch in (1, 2)
    ]
    for trial in reversed(trials):
        anywhere.put_trial(trial)
    for row in reversed(epochs):
        anywhere.put_epoch(row)
    assert not Ledger.exists(anywhere.folder)
    anywhere.flush()
    assert Ledger.exists(anywhere.folder)
    back = fresh(anywhere)
    assert plain(back.trials("base")) == plain(trials)
    assert plain(back.epochs("base")) == plain(epochs)


def test_a_row_put_again_replaces_itself(anywhere: Ledger) -> None:
    for score in (0.1, 0.2):
        anywhere.put_trial(replace(full(0), score=score))
        anywhere.put_epoch(epoch_record(0, 1, {"miou": score}, attempt=round(10 * score)))
        anywhere.flush()
    assert [t.score for t in fresh(anywhere).trials()] == [0.2]
    assert [(e.epoch, e.attempt, e.scores) for e in fresh(anywhere).epochs()] == [(1, 2, {"miou": 0.2})]


def test_rows_after_an_epoch_can_be_forgotten(anywhere: Ledger) -> None:
    for number in (0, 1):
        for epoch in (1, 2, 3):
            anywhere.put_epoch(epoch_record(number, epoch))
    anywhere.drop_epochs_after(full(1), 1)
    anywhere.flush()
    assert [(e.number, e.epoch) for e in fresh(anywhere).epochs()] == [(0, 1), (0, 2), (0, 3), (1, 1)]


def test_of_two_cuts_the_earlier_epoch_counts(anywhere: Ledger) -> None:
    for epoch in (1, 2, 3, 4):
        anywhere.put_epoch(epoch_record(0, epoch))
    anywhere.flush()
    anywhere.drop_epochs_after(full(0), 1)
    anywhere.put_epoch(epoch_record(0, 2, {"miou": 0.9}))
    anywhere.drop_epochs_after(full(0), 3)
    anywhere.flush()
    assert [(row.epoch, row.scores["miou"]) for row in fresh(anywhere).epochs()] == [(1, 0.1), (2, 0.9)]


def test_a_writer_that_dies_within_a_flush_leaves_no_trial_without_its_epochs(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    write = ledger_table.write_part

    def dies_later(path: Path, *rest: object) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *rest)

    monkeypatch.setattr(ledger_table, "write_part", dies_later)
    ledger.put_trial(full(0))
    ledger.put_epoch(epoch_record(0, 1))
    with pytest.raises(KeyboardInterrupt):
        ledger.flush()
    assert fresh(ledger).trials() == [] and len(fresh(ledger).epochs()) == 1
    monkeypatch.undo()
    assert ledger.flush() and len(fresh(ledger).trials()) == 1, "rows that were not written still wait"


def test_a_next_process_goes_on_with_the_same_rows(anywhere: Ledger) -> None:
    anywhere.put_trial(full(0))
    anywhere.put_epoch(epoch_record(0, 1))
    anywhere.close()
    again = fresh(anywhere)
    again.open()
    again.put_trial(full(1))
    again.put_epoch(epoch_record(0, 2))
    again.close()
    assert [t.number for t in again.trials()] == [0, 1]
    assert [e.epoch for e in again.epochs()] == [1, 2]
    anywhere.open()


def test_in_a_store_a_part_is_one_request_and_parts_of_one_schema_are_read_by_anyone(
    bucket: ObjectPath, proxy: Proxy, tmp_path: Path
) -> None:
    ledger = Ledger(bucket / "ledger")
    ledger.open()
    proxy.log.clear()
    ledger.put_trial(full(0))
    ledger.put_trial(replace(full(300), params={"late": 1}))
    ledger.put_epoch(epoch_record(0, 1))
    ledger.flush()
    written = [path.rpartition("/")[2] for method, path in proxy.log if method == "PUT" and path.endswith(".parquet")]
    assert written == ["base-00000.parquet", "base-00000.parquet", "base-00256.parquet"]
    ledger.close()
    for name, there in bucket.objects().items():
        assert name.endswith(".parquet") and there.size, "neither a lease nor anything half written is left"
        (bucket / name).download(tmp_path / name.replace("/", "-"))
    trials = pl.read_parquet(tmp_path / "ledger-trials-*.parquet")
    assert trials.height == 2 and "param.late" in trials.columns


def test_many_trials_spread_over_parts_and_each_row_is_there_once(ledger: Ledger) -> None:
    for stage in ("base", "meta"):
        for number in range(0, 600, 3):
            ledger.put_trial(replace(full(number, stage), error=None))
            ledger.put_epoch(epoch_record(number, 1, stage=stage))
    ledger.flush()
    parts = sorted(path.name for path in (ledger.folder / "trials").iterdir())
    assert parts == [f"{stage}-{first:05d}.parquet" for stage in ("base", "meta") for first in (0, 256, 512)]
    assert len(list((ledger.folder / "epochs").iterdir())) == 20
    assert [t.number for t in fresh(ledger).trials("meta")] == list(range(0, 600, 3))
    assert len(fresh(ledger).trials()) == len(fresh(ledger).epochs()) == 400


def test_only_parts_that_changed_are_written_again(ledger: Ledger) -> None:
    ledger.put_trial(full(0))
    ledger.put_trial(full(300))
    ledger.flush()
    parts = sorted((ledger.folder / "trials").iterdir())
    before = [path.stat().st_ino for path in parts]
    ledger.put_trial(replace(full(300), score=0.9))
    ledger.flush()
    after = [path.stat().st_ino for path in parts]
    assert after[0] == before[0] and after[1] != before[1]


def test_what_is_put_waits_in_memory_for_a_flush(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.put_epoch(epoch_record(0, 1))
    ledger.flush()

    def touched(*args: object, **kwargs: object) -> None:
        raise AssertionError("a put reads or writes no file")

    for name in ("read_part", "write_part"):
        monkeypatch.setattr(ledger_table, name, touched)
    ledger.put_trial(full(0))
    ledger.put_epoch(epoch_record(0, 2))
    ledger.put_epoch(epoch_record(700, 1))
    ledger.put_session(session())
    ledger.drop_epochs_after(full(0), 0)
    monkeypatch.undo()
    assert ledger.flush()
    assert [(row.number, row.epoch) for row in fresh(ledger).epochs()] == [(700, 1)]


_numbers = st.integers(0, 2).map(lambda number: 70 * number)
_steps = st.one_of(
    st.tuples(st.just("put"), _numbers, st.integers(1, 4)),
    st.tuples(st.just("drop"), _numbers, st.integers(0, 4)),
    st.tuples(st.sampled_from(["flush", "open"]), st.just(0), st.just(0)),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(_steps, max_size=25))
def test_any_order_of_puts_drops_flushes_and_restarts_gives_the_rows_of_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("model") / "ledger")
    ledger.open()
    model: dict[tuple[int, int], float] = {}
    with pytest.MonkeyPatch.context() as patch:
        # Of three parts one is in memory, the others have to be read again.
        patch.setattr(ledger_table, "_RECENT_PARTS", 1)
        for at, (step, number, epoch) in enumerate([*steps, ("open", 0, 0)]):
            if step == "put":
                ledger.put_epoch(epoch_record(number, epoch, {"miou": float(at)}))
                model[number, epoch] = float(at)
            elif step == "drop":
                ledger.drop_epochs_after(full(number), epoch)
                model = {key: score for key, score in model.items() if key[0] != number or key[1] <= epoch}
            elif step == "flush":
                assert ledger.flush()
            else:
                ledger.close()
                ledger = fresh(ledger)
                ledger.open()
    ledger.close()
    assert [(row.number, row.epoch, row.scores["miou"]) for row in ledger.epochs()] == [
        (*key, score) for key, score in sorted(model.items())
    ]
    for path in (ledger.folder / "epochs").iterdir():
        rows = pq.read_table(path, columns=["number", "epoch"]).to_pylist()
        assert rows == sorted(rows, key=lambda row: (row["number"], row["epoch"])), "in order on disk too"


def test_a_flush_is_due_after_two_seconds_and_later_where_it_takes_long(tmp_path: Path) -> None:
    clock = Clock()
    ledger = Ledger(tmp_path / "ledger", clock=clock)
    ledger.open()

    def due_after(seconds: float) -> bool:
        clock.now += seconds
        ledger.put_trial(full(round(1000 * clock.now)))
        return ledger.flush_if_due()

    assert [due_after(1.9), due_after(0.2), due_after(1.9), due_after(0.2)] == [False, True, False, True]

    class Slow(Clock):
        """A flush looks at it twice, and so takes a tick."""

        tick = 0.02

        def __call__(self) -> float:
            self.now += self.tick
            return self.now

    slow = Slow()
    ledger._clock = slow
    slow.now = clock.now + 20

    def due_after_flush(seconds: float) -> bool:
        slow.now += seconds
        return ledger.flush_if_due()

    assert due_after_flush(0)
    assert [due_after_flush(3.5), due_after_flush(1.0)] == [False, True], "200 times a fiftieth of a second"
    slow.tick = 0.25
    assert due_after_flush(5.0)
    assert [due_after_flush(8.0), due_after_flush(3.0)] == [False, True], "no more than ten seconds"
    slow.tick = 1.0
    assert due_after_flush(20.0)
    assert [due_after_flush(15.0), due_after_flush(8.0)] == [False, True], "but for what takes a twentieth of the time"
    ledger.close()


class TestAsOpenedByOthers:
    """Four readers, each on the folder as it is."""

    @pytest.fixture
    def trials(self, ledger: Ledger) -> Path:
        for number in range(4):
            ledger.put_trial(full(number))
        ledger.put_trial(replace(full(0, "meta"), params={"width": 16, "kind": "mean"}))
        ledger.flush()
        return ledger.folder / "trials"

    @pytest.fixture
    def epochs(self, ledger: Ledger) -> Path:
        for stage in ("base", "meta"):
            for epoch in (1, 2, 3):
                ledger.put_epoch(epoch_record(0, epoch, stage=stage))
        ledger.flush()
        return ledger.folder / "epochs"

    def test_pyarrow(self, trials: Path, epochs: Path) -> None:
        table = pq.read_table(trials)
        assert table.num_rows == 5 and pq.read_table(epochs).num_rows == 6
        kinds = {field.name: field.type for field in table.schema}
        category = pa.dictionary(pa.int32(), pa.string())
        assert kinds["status"] == kinds["stage"] == kinds["sampler"] == category
        assert kinds["started"] == kinds["ended"] == pa.timestamp("us", tz="UTC")
        assert kinds["param.rate"] == kinds["score"] == kinds["score.iou.car"] == pa.float64()
        assert kinds["param.batch"] == kinds["param.width"] == kinds["seed"] == pa.int64()
        assert kinds["param.image"] == pa.bool_() and kinds["param.kind"] == kinds["from.data"] == pa.string()

    def test_pandas(self, trials: Path, epochs: Path) -> None:
        frame = pd.read_parquet(trials)
        assert isinstance(frame["status"].dtype, pd.CategoricalDtype)
        assert isinstance(frame["stage"].dtype, pd.CategoricalDtype)
        assert frame["started"].dt.tz is not None
        assert frame.groupby("stage", observed=True)["score"].max().to_dict() == {"base": 0.25, "meta": 0.25}
        assert len(pd.read_parquet(epochs)) == 6

    def test_polars(self, trials: Path, epochs: Path) -> None:
        frame = pl.read_parquet(trials / "*.parquet")
        assert frame.schema["status"] == frame.schema["stage"] == pl.Categorical
        assert frame.schema["param.batch"] == pl.Int64 and frame.schema["param.image"] == pl.Boolean
        assert frame.height == 5 and pl.read_parquet(epochs / "*.parquet").height == 6

    def test_duckdb(self, trials: Path, epochs: Path) -> None:
        query = f"""select t.status, count(*), max(e."score.miou") from '{epochs}/*.parquet' e
            join '{trials}/*.parquet' t using (trial) group by all"""
        assert duckdb.sql(query).fetchall() == [("finished", 6, 0.3)]


def test_all_parts_get_a_column_that_one_needs(ledger: Ledger) -> None:
    ledger.put_trial(full(0))
    ledger.flush()
    ledger.put_trial(replace(full(0, "meta"), params={"width": 16}, scores={"loss": 1.0}))
    ledger.put_trial(replace(full(600), params={"late": "x"}))
    ledger.flush()
    schemas = [pq.read_schema(path) for path in sorted((ledger.folder / "trials").iterdir())]
    assert len(schemas) == 3 and schemas[0] == schemas[1] == schemas[2]
    assert {"param.rate", "param.width", "param.late", "score.loss", "score.miou"} <= set(schemas[0].names)
    assert dict(fresh(ledger).trials("meta")[0].params) == {"width": 16}


def test_whole_numbers_become_floats_where_another_trial_has_a_float(ledger: Ledger) -> None:
    ledger.put_trial(replace(full(0), params={"clip": 1}))
    ledger.flush()
    ledger.put_trial(replace(full(1), params={"clip": 0.5}))
    ledger.put_trial(replace(full(300), params={"clip": 2}))
    ledger.flush()
    assert [t.params["clip"] for t in fresh(ledger).trials()] == [1.0, 0.5, 2.0]
    assert pq.read_table(ledger.folder / "trials").schema.field("param.clip").type == pa.float64()


def test_a_parameter_that_is_a_text_elsewhere_is_written_as_text(ledger: Ledger) -> None:
    ledger.put_trial(replace(full(0), params={"depth": 3}))
    ledger.flush()
    ledger.put_trial(replace(full(0, "meta"), params={"depth": "deep"}))
    ledger.flush()
    assert [t.params["depth"] for t in fresh(ledger).trials()] == ["3", "deep"]


_values = st.one_of(st.integers(-(2**40), 2**40), st.floats(allow_nan=False), st.text("ab", max_size=2))
_rows = st.lists(st.dictionaries(st.sampled_from(["a", "b", "c.d"]), _values, max_size=3), max_size=4)


@settings(max_examples=30, deadline=None)
@given(_rows, _rows)
def test_no_mixture_of_parameters_keeps_a_row_from_being_written(
    tmp_path_factory: pytest.TempPathFactory, first: list[dict[str, object]], second: list[dict[str, object]]
) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("mixture") / "ledger")
    ledger.open()
    for stage, rows in (("base", first), ("meta", second)):
        for number, params in enumerate(rows):
            ledger.put_trial(replace(full(number, stage), params=params))
        ledger.flush()
    ledger.close()
    back = fresh(ledger)
    assert [set(t.params) for t in back.trials()] == [set(p) for p in (*first, *second)]
    assert len({str(pq.read_schema(path)) for path in (ledger.folder / "trials").iterdir()}) <= 1


def test_a_second_writer_is_refused_with_the_owners_name(ledger: Ledger) -> None:
    with pytest.raises(RunError, match=r"but process \d+ on .* writes to .*run; wait for it, stop it, or use another"):
        fresh(ledger).open()
    assert fresh(ledger).trials() == []
    program = (
        "import sys, pathlib; from ensemble_tune.tune.ledger import Ledger; Ledger(pathlib.Path(sys.argv[1])).open()"
    )
    done = subprocess.run([sys.executable, "-c", program, ledger.folder], capture_output=True, text=True)
    assert "RunError: one search writes to a run folder at a time" in done.stderr
    ledger.close()
    again = fresh(ledger)
    again.open()
    again.close()
    ledger.open()


def test_an_owner_that_died_blocks_nobody(ledger: Ledger) -> None:
    ledger.close()
    program = """if True:
        import os, sys, pathlib, signal; from ensemble_tune.tune.ledger import Ledger
        Ledger(pathlib.Path(sys.argv[1])).open(); os.kill(os.getpid(), signal.SIGKILL)"""
    assert subprocess.run([sys.executable, "-c", program, ledger.folder]).returncode == -signal.SIGKILL
    ledger.open()


def damage_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_text(path: Path) -> None:
    path.write_text("trial,stage\nbase-0000,base\n")


def damage_foreign(path: Path) -> None:
    pq.write_table(pa.table({"trial": ["base-0000"], "stage": ["base"], "number": [0]}), path)


def damage_column_foreign(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.append_column("note", pa.array(["mine"] * len(table))), path)


def damage_group_foreign(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.append_column("note.a", pa.array([1.0] * len(table))), path)


def damage_column_lost(path: Path) -> None:
    pq.write_table(
        pq.read_table(path).drop_columns(["started" if "started" in path.read_text("latin1") else "epoch"]), path
    )


def damage_type(path: Path) -> None:
    pd.read_parquet(path).astype({"stage": "string"}).to_parquet(path)


def damage_null(path: Path) -> None:
    table = pq.read_table(path)
    name = next(name for name in ("number", "session") if name in table.column_names)
    column = pa.nulls(len(table), pa.int64())
    pq.write_table(table.set_column(table.column_names.index(name), name, column), path)


def damage_twice(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table]), path)


def damage_other_stage(path: Path) -> None:
    table = pq.read_table(path)
    column = pa.array(["meta"] * len(table)).dictionary_encode()
    pq.write_table(table.set_column(table.column_names.index("stage"), pa.field("stage", column.type), column), path)


def damage_bit(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"base")] ^= 1
    path.write_bytes(bytes(whole))


def damage_utf8(path: Path) -> None:
    """Arrow itself would hand such a text on."""
    table = pq.read_table(path)
    text = pa.array([b"\xffa"] * len(table)).view(pa.string()).dictionary_encode()
    pq.write_table(table.set_column(table.column_names.index("stage"), pa.field("stage", text.type), text), path)


def damage_index(path: Path) -> None:
    """A text that its column has no entry for: the index is the last byte of the column's page."""
    table = pq.read_table(path)
    pq.write_table(table, path, compression="none", use_dictionary=["stage"])
    column = pq.read_metadata(path).row_group(0).column(table.column_names.index("stage"))
    whole = bytearray(path.read_bytes())
    whole[column.dictionary_page_offset + column.total_compressed_size - 1] = 9
    path.write_bytes(bytes(whole))


def damage_time(path: Path) -> None:
    table = pq.read_table(path)
    name = next(name for name in ("started", "reported") if name in table.column_names)
    column = pa.array([2**62] * len(table), table.schema.field(name).type)
    pq.write_table(table.set_column(table.column_names.index(name), table.schema.field(name), column), path)


def damage_pages(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * (len(whole) // 3) + whole[4 + len(whole) // 3 :])


DAMAGES = [value for name, value in sorted(globals().items()) if name.startswith("damage_")]


@pytest.fixture
def written(ledger: Ledger) -> Ledger:
    """A row in each table, and the lock let go."""
    ledger.put_trial(full(0))
    ledger.put_epoch(epoch_record(0, 1))
    ledger.put_session(session())
    ledger.close()
    return ledger


PARTS = ["trials/base-00000.parquet", "epochs/base-00000.parquet", "sessions/base.parquet"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", PARTS)
def test_a_damaged_part_is_refused_by_name_and_the_lock_let_go(written: Ledger, damage, name: str) -> None:  # type: ignore[no-untyped-def]
    part = written.folder / name
    whole = part.read_bytes()
    damage(part)
    spoiled = part.read_bytes()
    ways = (lambda: fresh(written).open(), {"t": written.trials, "e": written.epochs, "s": written.sessions}[name[0]])
    for act in (*ways, *ways):
        with pytest.raises(RunError) as error:
            act()
        assert str(part) in str(error.value) and "restore or remove it" in str(error.value)
        assert "\n" not in str(error.value)
    assert part.read_bytes() == spoiled, "what may be mended by hand is left alone"
    part.write_bytes(whole)
    written.open()


@pytest.mark.parametrize("name", ["base-00256.parquet", "meta-00000.parquet", "base-00001.parquet", "base-0.parquet"])
def test_rows_that_are_there_twice_under_another_name_are_refused(written: Ledger, name: str) -> None:
    copy = written.folder / "trials" / name
    shutil.copy(written.folder / PARTS[0], copy)
    for act in (fresh(written).trials, fresh(written).open):
        with pytest.raises(RunError, match=r"restore or remove it$") as error:
            act()
        assert str(copy) in str(error.value)
    copy.unlink()
    assert len(written.trials()) == 1


@pytest.mark.parametrize("name", ["../../../else", "a" * 256, "nul\0l", ".hidden", "", "two\nlines"])
@pytest.mark.parametrize("part", PARTS[:2])
def test_a_trial_that_no_folder_can_be_named_after_is_refused(written: Ledger, part: str, name: str) -> None:
    table = pq.read_table(written.folder / part)
    schema = table.schema.field("trial")
    pq.write_table(table.set_column(0, schema, pa.array([name])), written.folder / part)
    with pytest.raises(RunError, match=r"it has a trial '.*', which cannot be a folder's name"):
        (written.trials if part.startswith("trials") else written.epochs)()


def test_a_status_that_this_version_does_not_know_is_refused_with_file_and_value(written: Ledger) -> None:
    part = written.folder / PARTS[0]
    table = pq.read_table(part)
    column = pa.array(["dreaming"]).dictionary_encode()
    pq.write_table(table.set_column(3, pa.field("status", column.type, nullable=False), column), part)
    for act in (fresh(written).trials, fresh(written).open):
        with pytest.raises(RunError, match=r"but .*trials/base-00000.parquet gives base-0000 'dreaming'; read it with"):
            act()
    with pytest.raises(RunError, match="dreaming"):
        fresh(written).open()


def test_a_part_that_is_damaged_or_gone_while_a_search_writes_is_not_taken_for_new(written: Ledger) -> None:
    part = written.folder / PARTS[1]
    whole = part.read_bytes()
    written.open()
    part.write_bytes(whole[:-10])
    written.put_epoch(epoch_record(0, 2))
    with pytest.raises(RunError, match=r"epochs/base-00000\.parquet is not one"):
        written.flush()
    part.unlink()
    assert not written.flush() and not part.exists()
    part.write_bytes(whole)
    written.close()
    assert [row.epoch for row in fresh(written).epochs()] == [1, 2]


class TestStorageThatFails:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def ledger(self, tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
        ledger = Ledger(tmp_path / "run" / "ledger", clock=clock)
        ledger.open()
        ledger.put_trial(full(0))
        ledger.put_epoch(epoch_record(0, 1))
        assert ledger.flush()
        yield ledger
        ledger.close()

    @pytest.fixture
    def broken(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
        """While this list is not empty, no file is renamed: EIO. Each try adds an item."""
        tries: list[int] = []
        rename = Path.replace

        def fails(path: Path, target: Path) -> Path:
            if not tries:
                return rename(path, target)
            tries.append(1)
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

        monkeypatch.setattr(Path, "replace", fails)
        yield tries
        tries.clear()

    def test_it_is_said_once_tried_ever_less_often_and_nothing_is_lost(
        self, ledger: Ledger, clock: Clock, broken: list[int], caplog: pytest.LogCaptureFixture
    ) -> None:
        broken.append(0)
        tried = []
        for second in range(200):
            before = len(broken)
            ledger.put_epoch(epoch_record(0, 2 + second))
            ledger.put_trial(replace(full(0), epochs=2 + second))
            assert not ledger.flush() and not ledger.flush_if_due()
            tried += [second] * (len(broken) - before)
            clock.now += 1
        assert tried == [0, 1, 3, 7, 15, 31, 63, 123, 183]
        (warning,) = caplog.records
        assert warning.levelno == logging.WARNING and warning.name == "ensemble_tune.tune.ledger"
        assert str(ledger.folder) in warning.message and "(Input/output error)" in warning.message
        assert "the search goes on, and nothing is lost while this process lives" in warning.message
        assert [row.epoch for row in fresh(ledger).epochs()] == [1]
        assert not list(ledger.folder.glob(".partial-*"))
        broken.clear()
        clock.now += 60
        assert ledger.flush() and ledger.flush()
        assert len(caplog.records) == 2 and "is written again" in caplog.records[1].message
        assert [row.epoch for row in fresh(ledger).epochs()] == list(range(1, 202))
        assert [trial.epochs for trial in fresh(ledger).trials()] == [201]
        broken.append(0)
        ledger.put_trial(full(0))
        clock.now += 2
        assert not ledger.flush_if_due() and len(caplog.records) == 3, "a new failure is said again"

    def test_parts_have_one_schema_again_after_a_new_column_could_not_be_written(
        self, ledger: Ledger, clock: Clock, broken: list[int]
    ) -> None:
        ledger.put_trial(full(300))
        assert ledger.flush()
        broken.append(0)
        ledger.put_trial(replace(full(600), params={"late": 1}))
        assert not ledger.flush()
        broken.clear()
        clock.now += 1
        assert ledger.flush()
        schemas = {str(pq.read_schema(path)) for path in (ledger.folder / "trials").iterdir()}
        assert len(schemas) == 1 and "param.late" in schemas.pop()
        assert [trial.number for trial in fresh(ledger).trials()] == [0, 300, 600]

    def test_closing_tries_for_its_patience_then_says_what_to_do(
        self, ledger: Ledger, broken: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ledger, "_clock", time.monotonic)
        broken.append(0)
        ledger.put_trial(full(1))
        with pytest.raises(
            RunError, match=r"that failed for 0\.2 s \(Input/output error\); mend the storage, then run"
        ):
            ledger.close(patience=0.2)
        assert 2 < len(broken) < 20
        broken.clear()
        again = fresh(ledger)
        again.open()
        again.close()
        ledger.open()

    def test_closing_waits_for_storage_that_comes_back(
        self, ledger: Ledger, broken: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ledger, "_clock", time.monotonic)
        broken.append(0)
        ledger.put_trial(full(1))
        monkeypatch.setattr(time, "sleep", lambda seconds: broken.clear())
        ledger.close(patience=5)
        assert [trial.number for trial in fresh(ledger).trials()] == [0, 1]
        ledger.open()

    def test_a_folder_that_cannot_be_read_is_named_in_one_line(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*args: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", str(ledger.folder / PARTS[0]))

        monkeypatch.setattr(ledger_table, "read_part", fails)
        with pytest.raises(RunError, match=r"trials/base-00000.parquet is not \(Permission denied\); mend the storage"):
            ledger.trials()


def test_a_full_disk_stops_the_writer_and_damages_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        ledger = Ledger(disk / "run" / "ledger")
        ledger.open()
        for number in range(100):
            ledger.put_epoch(epoch_record(number, 1))
            ledger.put_trial(full(number))
        assert ledger.flush()
        before = {path: path.read_bytes() for path in ledger.folder.glob("*/*")}
        filler = fill(disk)
        ledger.put_epoch(epoch_record(0, 2))
        for act in (ledger.flush, ledger.close):
            with pytest.raises(
                StorageFullError, match=r"is full \(No space left on device; 0\.0 MB are free in"
            ) as error:
                act()
            assert str(ledger.folder) in str(error.value) and "run the same command again" in str(error.value)
            assert "\n" not in str(error.value)
        assert {path: path.read_bytes() for path in ledger.folder.glob("*/*")} == before
        assert not list(ledger.folder.glob(".partial-*"))
        with pytest.raises(EnsembleTuneError, match=r"must be .* but"):
            fresh(ledger).open()
        filler.unlink()
        ledger.open()
        ledger.close()
        assert [row.epoch for row in ledger.epochs()][:2] == [1, 2], "what could not be written was kept"


def test_parts_of_a_writer_that_died_while_it_added_a_column_are_made_equal(ledger: Ledger) -> None:
    ledger.put_trial(full(0))
    ledger.put_trial(full(0, "meta"))
    ledger.close()
    part = ledger.folder / "trials" / "meta-00000.parquet"
    table = pq.read_table(part)
    pq.write_table(table.append_column("param.new", pa.array([1])), part)
    (ledger.folder / ".partial-0-meta-00000.parquet").write_bytes(b"half")
    again = fresh(ledger)
    again.open()
    again.close()
    parts = sorted((ledger.folder / "trials").iterdir())
    assert not list(ledger.folder.glob(".partial-*"))
    assert [path.name for path in parts] == ["base-00000.parquet", "meta-00000.parquet"]
    assert pq.read_schema(parts[0]) == pq.read_schema(parts[1])
    assert "param.new" in pq.read_schema(parts[0]).names
    ledger.open()


def test_columns_that_another_writer_added_before_the_lock_are_kept(ledger: Ledger) -> None:
    ledger.close()
    early = fresh(ledger)
    other = fresh(ledger)
    other.open()
    other.put_trial(replace(full(0, "meta"), params={"new": 1}))
    other.close()
    early.open()
    early.put_trial(full(0))
    early.close()
    assert len({str(pq.read_schema(path)) for path in (ledger.folder / "trials").iterdir()}) == 1
    ledger.open()


_WRITER = """
import itertools, pathlib, sys
sys.path.insert(0, sys.argv[2])
from records import epoch_record, trial_record
from ensemble_tune.tune.ledger import Ledger
ledger = Ledger(pathlib.Path(sys.argv[1]))
ledger.open()
first = len(ledger.trials())
for number in itertools.count(first):
    ledger.put_trial(trial_record(number, stage="ab"[number % 2], params={f"p{number}": number}))
    for epoch in range(1, 4):
        ledger.put_epoch(epoch_record(number, epoch, {"miou": 0.1}, stage="ab"[number % 2]))
    ledger.flush()
"""


def test_a_writer_killed_at_any_moment_leaves_a_ledger_that_everyone_reads(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "ledger"
    seen = 0
    for wait in (0.02, 0.07, 0.11):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, folder, Path(__file__).parent])
        before = seen
        while seen <= before:
            assert writer.poll() is None
            # A reader beside the writer never sees half a part either.
            seen = len(Ledger(folder).trials()) if folder.exists() else 0
        until = time.monotonic() + wait
        while time.monotonic() < until:
            epochs = Ledger(folder).epochs()
            assert len({(e.trial, e.epoch) for e in epochs}) == len(epochs)
            assert all(path.name.startswith(("a-", "b-")) for path in folder.glob("*/*"))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        trials = Ledger(folder).trials()
        assert len({t.trial for t in trials}) == len(trials) >= seen
        assert all(dict(t.params) == {f"p{t.number}": t.number} for t in trials)
        seen = len(trials)
        assert duckdb.sql(f"select count(*) from '{folder}/trials/*.parquet'").fetchall() == [(seen,)]
        # A column that was being added is in some parts only, until the next writer opens the ledger.
        parts = pl.scan_parquet(folder / "trials" / "*.parquet", missing_columns="insert", extra_columns="ignore")
        assert parts.collect().height == seen
