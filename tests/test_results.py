import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console, RenderableType
from tiny_run import Finished
from written_run import base, meta, usual_run, write_run

from ensemble_tune.cli_output import out_console
from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.errors import ConfigError, RunError
from ensemble_tune.export import export_best
from ensemble_tune.results import compromises, leaderboard, manifest_lines, summary, trial_page
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Objective, Status
from ensemble_tune.tune.session import SessionRecord


def shown(what: RenderableType) -> str:
    text = StringIO()
    console = Console(file=text, width=200, markup=False, emoji=False)
    console.print(what)
    return text.getvalue()


def _row(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if start in line)


def _blocks(line: str) -> float:
    """The length of a bar in whole blocks."""
    return sum((" ▏▎▍▌▋▊▉█".index(character) if character in "▏▎▍▌▋▊▉█" else 0) / 8 for character in line)


def test_every_stage_has_a_table_with_the_best_trial_first(tmp_path: Path) -> None:
    text = shown(leaderboard(usual_run(tmp_path)))
    assert "Base models, scored on val (2 finished, 1 failed)" in text
    assert "Fusions, scored on val (4 finished)" in text
    order = [line.split()[0] for line in text.splitlines() if line.startswith((" base-", " meta-"))]
    assert order == [
        "base-0001",
        "base-0000",
        "base-0002",
        "meta-0003",
        "meta-0000",
        "meta-0001",
        "meta-0002",
    ]
    assert "0.5000" in _row(text, "base-0001") and "linknet resnet34" in _row(text, "base-0001")
    assert "a step must fit [/memory], but [red] does not" in _row(text, "base-0002")


def test_a_table_shows_no_more_rows_than_asked_for(tmp_path: Path) -> None:
    text = shown(leaderboard(usual_run(tmp_path), stage="meta", top=1))
    assert "meta-0003" in text and "meta-0000" not in text and "base-" not in text


def test_a_trials_page_holds_its_parameters_curve_and_classes(tmp_path: Path) -> None:
    text = shown(trial_page(usual_run(tmp_path), "base-0001"))
    assert "base-0001  finished  miou 0.5000 at epoch 3" in text
    assert "0.01235" in _row(text, "learning_rate")
    curve = [line for line in text.splitlines() if "█" in line]
    assert [line.split()[1] for line in curve if "best" in line] == ["3"]
    assert [_blocks(line) for line in curve[:4]] == [3.375, 6.625, 10, 9]
    assert "0.2500" in _row(text, "car") and "-" in _row(text, "pole")
    assert "c0ffee" in _row(text, "data") and "101" in _row(text, "seed")


def test_a_failed_trials_page_says_why(tmp_path: Path) -> None:
    assert "base-0002  failed  a step must fit [/memory]" in shown(trial_page(usual_run(tmp_path), "base-0002"))


def test_what_looks_like_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    run = usual_run(tmp_path)
    with out_console.capture() as captured:
        out_console.print(leaderboard(run))
        out_console.print(trial_page(run, "base-0002"))
    assert "[/memory]" in captured.get()


def test_the_summary_sets_the_best_fusion_beside_the_best_single_model_and_the_mean(tmp_path: Path) -> None:
    final = {"miou": 0.55, "mean.miou": 0.51, "member-1.miou": 0.49}
    text = shown(summary(usual_run(tmp_path), "test", final))
    assert "0.5000" in _row(text, "best single") and "meta-0001" in _row(text, "best single")
    assert "0.5200" in _row(text, "mean of bases") and "meta-0000" in _row(text, "mean of bases")
    assert "0.6000" in _row(text, "meta (plain)") and "<- exported" in _row(text, "meta (plain)")
    assert "exported ensemble on test: miou 0.5500, mean of its members 0.5100, its best member 0.4900" in " ".join(
        text.split()
    )


def test_the_summary_says_so_where_the_mean_wins(tmp_path: Path) -> None:
    run = write_run(tmp_path, base(0, 0.4), base(1, 0.5), meta(0, 0.7, "mean", "1+2"), meta(1, 0.6, "plain"))
    text = shown(summary(run, None, {}))
    assert "<- exported" in _row(text, "mean of bases") and "<- exported" not in _row(text, "meta (plain)")
    assert "exported ensemble on" not in text


def test_why_the_last_call_ended_is_told(tmp_path: Path) -> None:
    assert "ended:" not in shown(leaderboard(usual_run(tmp_path)))
    ledger = Ledger(tmp_path / LEDGER)
    ledger.open()
    now = datetime.now(UTC)
    for number, reason in ((1, "interrupted"), (2, "2 hours used")):
        ledger.put_session(
            SessionRecord(
                stage="base",
                session=number,
                started=now,
                updated=now,
                ended=now,
                reason=reason,
                slots=2,
                host="h",
                pid=1,
            )
        )
    ledger.close()
    text = shown(leaderboard(tmp_path))
    assert "ended: 2 hours used" in text and "interrupted" not in text


def test_a_search_for_the_lowest_score_lists_the_lowest_first(tmp_path: Path) -> None:
    records = [replace(base(number, 0.1 * number), stage="mine", trial=f"mine-{number:04d}") for number in range(1, 5)]
    ledger = Ledger(write_run(tmp_path, *records) / LEDGER)
    ledger.open()
    now, goal = datetime.now(UTC), {"metric": "loss", "mode": "min"}
    ledger.put_session(
        SessionRecord(stage="mine", session=1, started=now, updated=now, slots=2, host="h", pid=1, goal=goal)
    )
    ledger.close()
    text = shown(leaderboard(tmp_path, top=2))
    assert [line.split()[0] for line in text.splitlines() if "mine-" in line] == ["mine-0001", "mine-0002"]


def test_compromises_are_the_finished_trials_that_none_beats(tmp_path: Path) -> None:
    records = [base(0, 0.4), base(1, 0.5), base(2, 0.45), base(3, 0.9, status=Status.STOPPED)]
    costs = (5.0, 20.0, 25.0, 1.0)
    records = [
        replace(record, scores={**record.scores, "milliseconds": cost})
        for record, cost in zip(records, costs, strict=True)
    ]
    text = shown(compromises(write_run(tmp_path, *records), [Objective("miou"), Objective("milliseconds", "min")]))
    assert [line.split()[:3] for line in text.splitlines() if "base-" in line] == [
        ["base-0001", "0.5", "20"],
        ["base-0000", "0.4", "5"],
    ]
    with pytest.raises(ConfigError, match="has no score 'seconds'; did you mean"):
        compromises(tmp_path, [Objective("miou"), Objective("seconds")])


def test_a_manifest_in_a_few_lines(tmp_path: Path) -> None:
    text = manifest_lines(export_best(usual_run(tmp_path / "run"), tmp_path / "best.toml").to_document())
    assert text.splitlines()[0] == "plain of"
    assert "base-0001  linknet  resnet34" in text and "fusion_miou 0.6000" in text
    assert "unet" in manifest_lines(EnsembleManifest.from_document({"bases": [{}]}).to_document())


@pytest.mark.parametrize(
    "what", [leaderboard, lambda out: summary(out, None, {}), lambda out: trial_page(out, "base-0000")]
)
def test_a_folder_without_a_run_is_refused(tmp_path: Path, what: object) -> None:
    with pytest.raises(RunError, match=r"no search is in .*; run first: ensemble-tune run --data DATA --out "):
        what(tmp_path)  # type: ignore[operator]


def test_a_run_without_a_fusion_has_no_summary(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no fusion has ended"):
        summary(write_run(tmp_path, base(0, 0.4)), None, {})


def test_an_unknown_trial_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no trial 'base-001'; did you mean 'base-0001'"):
        trial_page(usual_run(tmp_path), "base-001")


def test_a_run_that_is_under_way_can_be_read(tmp_path: Path) -> None:
    text = shown(leaderboard(write_run(tmp_path, base(0, None, status=Status.RUNNING))))
    assert "1 running" in text and "base-0000" in text


def test_a_real_run_can_be_read(finished: Finished) -> None:
    assert "Fold trainings" in shown(leaderboard(finished.out))
    assert "Final training" in shown(leaderboard(finished.out / "final"))
    assert "IoU of each class" in shown(trial_page(finished.out, "base-0000"))


@pytest.mark.parametrize("arguments", [["--help"], ["results", "RUN"], ["results", "RUN", "--trial", "base-0001"]])
def test_help_and_results_import_neither_torch_nor_ray(tmp_path: Path, arguments: list[str]) -> None:
    usual_run(tmp_path)
    code = (
        "import sys\nfrom ensemble_tune.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'ray', 'optuna', 'cv2', 'segmentation_models_pytorch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    words = [str(tmp_path) if word == "RUN" else word for word in arguments]
    ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_a_search_of_anything_else_has_its_leaderboard(tmp_path: Path) -> None:
    other = replace(base(0, 0.4), stage="search", trial="search-0000", params={"x": 0.25, "deep": True})
    text = shown(leaderboard(write_run(tmp_path, other)))
    assert "search (1 finished)" in text and "deep True x 0.25" in text and "0.4000" in _row(text, "search-0000")
