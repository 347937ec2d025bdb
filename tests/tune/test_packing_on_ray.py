"""Trials of many sizes on a logical cluster with cards of two sizes: what the ledger says of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from packing_search import CARDS, EPOCHS, MEASURED, ROUND, ROUNDS
from processes import on_its_own_cluster

from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import EpochRecord, Status, TrialRecord
from ensemble_tune.tune.resources import GIB


@pytest.fixture(scope="module")
def searches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, on one cluster."""
    out = tmp_path_factory.mktemp("packed")
    on_its_own_cluster("packing_search.py", out)
    return out


@pytest.fixture(scope="module")
def runs(searches: Path) -> Path:
    return searches / "many"


@pytest.fixture(scope="module")
def ran_out(searches: Path) -> Path:
    return searches / "ran_out"


@pytest.fixture(scope="module")
def ledger(runs: Path) -> Ledger:
    return Ledger(runs / "packed" / LEDGER)


@dataclass(frozen=True)
class Held:
    """A share of a card over some time, by one life of a trial; since it was handed out, until it trained no more."""

    trial: str
    card: str
    given: float
    since: datetime
    until: datetime


def held(ledger: Ledger, *, booked: bool) -> Iterator[Held]:
    """booked: from the moment that a share was handed out until it was given back, else while its trial trained."""
    lives: dict[tuple[str, int], list[EpochRecord]] = defaultdict(list)
    for row in ledger.epochs():
        lives[row.trial, row.attempt].append(row)
    ended = {record.trial: record.ended for record in ledger.trials()}
    for (trial, _), own in lives.items():
        first, until = own[0], own[-1].reported
        before = ("checkpoint",) if booked else ("checkpoint", "wait", "start")
        since = first.reported - timedelta(seconds=sum(v for name, v in first.seconds.items() if name not in before))
        end = (ended[trial] or until) if booked else until
        yield Held(trial, str(first.gpu["card"]), float(first.gpu["given"]), since, end)


def sizes(shares: list[Held]) -> dict[str, float]:
    """Each card's bytes, by how much of it was ever given at once."""
    cards = sorted({each.card for each in shares})
    biggest = {card: max(each.given for each in shares if each.card == card) for card in cards}
    large = max(cards, key=lambda card: biggest[card])
    return {card: (CARDS["large"][1] if card == large else CARDS["small"][1]) * GIB for card in cards}


def by_size(ledger: Ledger) -> dict[float, list[TrialRecord]]:
    found = defaultdict(list)
    for record in ledger.trials():
        found[float(record.params["gib"])].append(record)
    return found


def test_no_card_is_promised_twice_at_any_moment(ledger: Ledger) -> None:
    shares = list(held(ledger, booked=False))
    size = sizes(shares)
    assert len(size) == 3 and sorted(size.values()) == [16 * GIB, 16 * GIB, 80 * GIB]
    for moment in {each.since for each in shares}:
        for card in size:
            there = [each for each in shares if each.card == card and each.since <= moment < each.until]
            assert sum(each.given for each in there) <= size[card], f"{card} at {moment}: {there}"


def test_cards_are_full_while_trials_that_fit_wait(ledger: Ledger) -> None:
    own = {record.trial for record in ledger.trials() if record.number < len(ROUND) * ROUNDS}
    shares = [each for each in held(ledger, booked=True) if each.trial in own]
    since = sorted(each.since for each in shares)
    # From when all cards were full first until the last trial had its place.
    begin, end = since[len(ROUND) - 1], since[-1]
    taken = sum(
        each.given * max(0.0, (min(each.until, end) - max(each.since, begin)).total_seconds()) for each in shares
    )
    filled = taken / (sum(sizes(shares).values()) * (end - begin).total_seconds())
    assert filled >= 0.9, f"{filled:.0%}"


def test_each_trial_has_the_part_that_holds_it(ledger: Ledger) -> None:
    for gib, records in by_size(ledger).items():
        for record in records:
            if gib in ROUND:
                assert (record.status, record.epochs) == (Status.FINISHED, EPOCHS)
                assert record.gpu["given"] >= gib * GIB == record.gpu["estimated"]
                assert record.gpu["measured"] == int(MEASURED * gib * GIB)


def test_workers_are_taken_over_as_a_rule(ledger: Ledger) -> None:
    processes = {row.worker for row in ledger.epochs()}
    trials = len(ROUND) * ROUNDS
    assert len(processes) < 0.7 * trials, f"{len(processes)} processes for {trials} trials"


def test_the_next_stage_takes_the_workers_over_unless_it_needs_what_they_hold(runs: Path) -> None:
    first, second, whole = (Ledger(runs / name / LEDGER) for name in ("first", "second", "whole"))
    processes = [{row.worker for row in ledger.epochs()} for ledger in (first, second, whole)]
    assert processes[1] == processes[0] and not processes[2] & processes[0]
    shares = [(trial.status, trial.gpu["share"]) for trial in whole.trials()]
    assert shares == [(Status.FINISHED, 1.0)] * 2


def test_one_that_ran_out_of_memory_goes_on_with_more_and_the_others_never_knew(ledger: Ledger) -> None:
    found = by_size(ledger)
    (again,) = found[3.9]
    assert (again.status, again.epochs, again.attempt) == (Status.FINISHED, EPOCHS, 2)
    rows = [row for row in ledger.epochs() if row.trial == again.trial]
    assert [(row.epoch, row.attempt) for row in rows] == [(1, 1), (2, 2)], "it went on from its checkpoint"
    assert rows[0].gpu["given"] < 5 * GIB <= rows[1].gpu["given"]
    assert all(record.attempt == 1 for gib in set(ROUND) for record in found[gib])


def test_what_a_whole_card_cannot_hold_is_infeasible(ledger: Ledger) -> None:
    (whole,), (never,) = by_size(ledger)[80], by_size(ledger)[99]
    assert (whole.status, whole.epochs, whole.gpu["share"], whole.gpu["ran_out"]) == (Status.OUT_OF_MEMORY, 1, 1, 1)
    assert whole.error is not None and whole.error.startswith("out of memory with 1 GPU (80 GiB): a stand-in")
    assert (never.status, never.epochs) == (Status.FAILED, 0)
    assert never.error is not None and "it takes 99 GiB and the largest has 80" in never.error


def test_a_trial_that_says_what_it_takes_needs_no_requirements(runs: Path) -> None:
    (five,) = Ledger(runs / "sized" / LEDGER).trials()
    assert (five.status, five.gpu["share"], five.gpu["estimated"]) == (Status.FINISHED, 0.3333, 5 * GIB)


def test_a_fraction_that_cannot_hold_a_trial_is_refused_before_it_runs(runs: Path) -> None:
    (nine,) = Ledger(runs / "explicit" / LEDGER).trials()
    assert (nine.status, nine.epochs) == (Status.FAILED, 0)
    assert nine.error == (
        "a share of a GPU must hold what its trial takes, but 0.1 of the largest, which has 80 GiB, is 8, and this "
        "trial takes 9; give --gpus-per-trial 0.125, or auto"
    )


def test_three_beside_one_that_runs_out_of_memory_on_their_card_finish_untouched(ran_out: Path) -> None:
    ledger = Ledger(ran_out / "beside" / LEDGER)
    first, again, *others = ledger.trials()
    untouched = [first, *others]
    assert [(t.status, t.epochs, t.attempt) for t in untouched] == [(Status.FINISHED, EPOCHS, 1)] * 3
    assert (again.status, again.epochs, again.attempt) == (Status.FINISHED, EPOCHS, 2)
    assert again.gpu["ran_out"] == 0.25 and again.gpu["given"] >= 5 * GIB
    four = [each for each in held(ledger, booked=False) if each.given < 5 * GIB]
    assert len(four) == 4 and len({each.card for each in four}) == 1, "side by side on one card"
    assert max(each.since for each in four) < min(each.until for each in four)


def test_what_the_first_steps_took_is_what_those_that_wait_ask_for(ran_out: Path) -> None:
    ledger = Ledger(ran_out / "learned" / LEDGER)
    first, *later = sorted(ledger.trials(), key=lambda trial: -trial.gpu["given"])
    assert first.gpu["given"] == 80 * GIB, "as it was estimated"
    assert [(trial.status, trial.gpu["given"]) for trial in later] == [(Status.FINISHED, 16 * GIB // 5)] * 3


def test_where_all_ask_for_the_same_share_one_that_ran_out_has_more(ran_out: Path) -> None:
    again, enough = Ledger(ran_out / "alike" / LEDGER).trials()
    assert (again.status, again.attempt, again.gpu["ran_out"]) == (Status.FINISHED, 2, 0.25)
    assert again.gpu["given"] >= 5 * GIB and again.gpu["share"] == 0.3333
    assert (enough.status, enough.attempt, enough.gpu["share"]) == (Status.FINISHED, 1, 0.25)


def test_one_that_a_whole_card_cannot_hold_goes_on_on_a_larger_one_though_nothing_is_known_of_its_size(
    ran_out: Path,
) -> None:
    (whole,) = Ledger(ran_out / "whole" / LEDGER).trials()
    assert (whole.status, whole.gpu["share"], whole.gpu["given"]) == (Status.OUT_OF_MEMORY, 0.25, 20 * GIB)
    assert whole.error is not None and whole.error.startswith("out of memory with 0.25 GPU (20 GiB), the second time")
