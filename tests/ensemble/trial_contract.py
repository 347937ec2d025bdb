"""What every trial must keep, whatever it trains: subclass `TrialContract` and say how the trial is made."""

from pathlib import Path

import pytest

from ensemble_tune.ensemble.score_names import MILLISECONDS
from ensemble_tune.trial import Checkpoint, EpochResult, Params, Trial


def content(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def live(trial: Trial, params: Params, saved: Path, resume: Checkpoint | None = None) -> list[EpochResult]:
    """One life of a trial to its end; the state after epoch k is saved in `saved`/k."""
    results = []
    for result in trial(params, resume):
        folder = saved / str(result.epoch)
        folder.mkdir(parents=True)
        result.save(folder)
        results.append(result)
    return results


def told(results: list[EpochResult]) -> list[tuple[int, str]]:
    """What must be equal between two lives: epochs and scores to the last bit, nan being equal to nan; not the time."""
    return [(result.epoch, repr({k: v for k, v in result.scores.items() if k != MILLISECONDS})) for result in results]


@pytest.mark.usefixtures("one_thread")
class TrialContract:
    """A trial resumed at epoch k equals one that was never broken."""

    def trial(self, out: Path) -> Trial:
        """The trial, leaving what outlives it in `out`."""
        raise NotImplementedError

    def params(self) -> Params:
        raise NotImplementedError

    def test_resumed_at_any_epoch_it_equals_an_unbroken_one(self, tmp_path: Path) -> None:
        unbroken = live(self.trial(tmp_path / "out"), self.params(), tmp_path / "unbroken")
        assert unbroken
        for place, at in enumerate(unbroken[:-1], start=1):
            checkpoint = Checkpoint(tmp_path / "unbroken" / str(at.epoch), at.epoch)
            out, saved = tmp_path / f"out-{place}", tmp_path / f"resumed-{place}"
            resumed = live(self.trial(out), self.params(), saved, checkpoint)
            assert told(resumed) == told(unbroken[place:])
            for result in resumed:
                folders = [tmp_path / life / str(result.epoch) for life in ("unbroken", f"resumed-{place}")]
                assert content(folders[0]) == content(folders[1])
            assert content(out) == content(tmp_path / "out")

    def test_resumed_after_its_last_epoch_it_trains_nothing(self, tmp_path: Path) -> None:
        unbroken = live(self.trial(tmp_path / "out"), self.params(), tmp_path / "unbroken")
        last = unbroken[-1].epoch
        checkpoint = Checkpoint(tmp_path / "unbroken" / str(last), last)
        assert live(self.trial(tmp_path / "out"), self.params(), tmp_path / "resumed", checkpoint) == []

    def test_every_epoch_has_scores_and_comes_once(self, tmp_path: Path) -> None:
        results = live(self.trial(tmp_path / "out"), self.params(), tmp_path / "saved")
        assert [result.epoch for result in results] == sorted({result.epoch for result in results})
        assert all("miou" in result.scores and "loss" in result.scores for result in results)
