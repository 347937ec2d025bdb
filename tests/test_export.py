import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_run import Finished, settings, trials_of, write_spaces
from written_run import MEMBERS, base, meta, usual_run, write_run

from ensemble_tune.base_search import search_base
from ensemble_tune.choices import alone, choices
from ensemble_tune.comparison import Candidate, compare
from ensemble_tune.ensemble.evidence import Evidence
from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.errors import ConfigError, EnsembleTuneError, RunError
from ensemble_tune.export import export_best, exported_trials
from ensemble_tune.strategy import Strategy
from ensemble_tune.trial import Params, Value
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Status


def test_the_best_fusion_is_exported_with_all_it_takes_to_train_it_again(tmp_path: Path) -> None:
    manifest = export_best(usual_run(tmp_path / "run"), tmp_path / "best.toml", data="CamVid")
    assert EnsembleManifest.load(tmp_path / "best.toml") == manifest
    assert manifest.trials == ("base-0001", "base-0000")
    assert [(b.encoder, b.seed, b.epochs, b.stop_epoch) for b in manifest.bases] == [
        ("resnet34", 101, 4, 3),
        ("resnet18", 100, 4, 3),
    ]
    fusion = manifest.fusion
    assert (fusion.kind, fusion.seed, fusion.width, fusion.epochs, fusion.stop_epoch) == ("plain", 103, 16, 4, 3)
    assert (manifest.deploy, manifest.stacking, manifest.folds) == ("folds", "out-of-fold", 5)
    assert manifest.split == "official", "as in ledgers from before there were splits"
    assert (manifest.data, manifest.data_digest) == ("CamVid", "c0ffee")
    assert manifest.origin["meta_trial"] == "meta-0003" and "torch" in manifest.origin


def test_the_split_that_chose_it_is_exported(tmp_path: Path) -> None:
    seen = {"data": "c0ffee-blocks", "split": "blocks"}
    run = write_run(tmp_path / "run", base(0, 0.4), base(1, 0.5), replace(meta(0, 0.6, "plain"), provenance=seen))
    export_best(run, tmp_path / "best.toml")
    manifest = EnsembleManifest.load(tmp_path / "best.toml")
    assert (manifest.split, manifest.data_digest) == ("blocks", "c0ffee-blocks")


def test_a_fusion_of_bases_that_are_not_there_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", base(0, 0.4), base(1, 0.5), meta(0, 0.6, "plain", bases="1+7"))
    with pytest.raises(RunError, match=r"meta-0000 in .*ledger/trials has no '7'; restore the ledger"):
        export_best(run, tmp_path / "best.toml")


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"dropout": 1}, "no setting is called 'dropout'"),
        ({"width": 12}, "width must be a positive multiple of 8, but got 12"),
        ({"folds": "many"}, "invalid literal for int"),
        ({"stacking": "sideways"}, "sideways"),
        ({"members": "base-0001,base-0009"}, "base-0009"),
        ({"member_epochs": "9,9"}, r"stop_epoch must be within 1 and epochs \(4\), but got 9"),
    ],
)
def test_a_ledger_of_other_settings_than_an_ensemble_has_is_refused(
    tmp_path: Path, params: dict[str, Value], said: str
) -> None:
    run = write_run(tmp_path / "run", base(0, 0.4), base(1, 0.5), meta(0, 0.6, "plain", **params))
    with pytest.raises(RunError, match=rf"of meta-0000 and its members, but .*ledger/trials has.*{said}.*; restore"):
        export_best(run, tmp_path / "best.toml")
    assert not (tmp_path / "best.toml").exists()


def test_the_figures_that_chose_it_stand_beside_it(tmp_path: Path) -> None:
    scores = export_best(usual_run(tmp_path / "run"), tmp_path / "best.toml").scores
    assert scores == {
        "fusion_miou": 0.6,
        "fusion_small_miou": 0.3,
        "mean_miou": 0.52,
        "mean_small_miou": 0.26,
        "best_single_miou": 0.5,
        "best_single_small_miou": 0.25,
    }


def test_what_each_member_costs_stands_beside_it(tmp_path: Path) -> None:
    run = usual_run(tmp_path / "run")
    trained = [
        replace(base(number, 0.3), trial=f"fold-{number:04d}", stage="fold", params={"member": member}, seconds=10.0)
        for number, member in enumerate(("base-0001", "base-0001", "base-0000", "base-0002"))
    ]
    cost = {"milliseconds": 3.0, "parameters": 2.0, "memory": 50.0}
    write_run(run, *trained, replace(base(1, 0.5), scores={"miou": 0.5, **cost}))
    manifest = export_best(run, tmp_path / "best.toml")
    assert manifest.members["base-0001"] == {"miou": 0.5, **cost, "train_seconds": 12.3 + 20.0}
    assert manifest.members["base-0000"]["train_seconds"] == 12.3 + 10.0 and len(manifest.members) == 2
    assert not manifest.fusions and EnsembleManifest.load(tmp_path / "best.toml") == manifest


def costly(run: Path) -> Path:
    """Fusions with what they cost: the trained one is the best and the slowest, one alone the fastest."""
    seconds = {"meta-0000": 10.0, "meta-0001": 5.0, "meta-0002": 6.0, "meta-0003": 40.0}
    records = Ledger(usual_run(run / "plain") / LEDGER).trials()
    costs = {r.trial: {**r.scores, "milliseconds": seconds.get(r.trial, 5.0), "parameters": 2.0} for r in records}
    return write_run(run, *(replace(r, scores=costs[r.trial]) if r.scores else r for r in records))


@pytest.mark.parametrize(
    ("rule", "trial"),
    [
        ("best", "meta-0003"),
        ("knee", "meta-0000"),
        ("milliseconds<20", "meta-0000"),
        ("milliseconds<20,small_miou<0.26", "meta-0001"),
    ],
)
def test_a_compromise_may_be_exported(tmp_path: Path, rule: str, trial: str) -> None:
    run = costly(tmp_path / "run")
    manifest = export_best(run, tmp_path / "best.toml", rule=rule)
    assert manifest.origin["meta_trial"] == trial
    (picked,) = [record for record in Ledger(run / LEDGER).trials("meta") if record.trial == trial]
    assert manifest.scores["fusion_miou"] == picked.score
    assert manifest.scores["fusion_milliseconds"] == picked.scores["milliseconds"]
    assert trial in exported_trials(run)


@pytest.mark.parametrize("rule", ["base-0003", "milliseconds<5"])
def test_a_small_network_that_is_no_member_may_be_exported_alone(tmp_path: Path, rule: str) -> None:
    small = replace(base(3, 0.35), scores={"miou": 0.35, "milliseconds": 1.5})
    run = write_run(costly(tmp_path / "run"), small, base(4, None, status=Status.FAILED, error="out of memory"))
    manifest = export_best(run, tmp_path / "best.toml", rule=rule)
    assert (manifest.trials, manifest.fusion.kind, manifest.deploy) == (("base-0003",), "mean", "refit")
    assert manifest.bases[0].seed == small.seed and manifest.fusion.size == manifest.bases[0].size
    assert manifest.scores["fusion_miou"] == 0.35 and manifest.scores["best_single_miou"] == 0.5
    assert EnsembleManifest.load(tmp_path / "best.toml") == manifest and "base-0003" in exported_trials(run)
    with pytest.raises(ConfigError, match="a pick is best"):
        export_best(run, tmp_path / "best.toml", rule="base-0004")


def test_a_base_model_that_is_a_fusion_already_is_that_fusion() -> None:
    own = base(0, 0.4)
    fusions = [
        meta(0, 0.5, "mean", "1+2", deploy="refit"),
        meta(1, 0.4, "mean", "2", deploy="refit", member_epochs="4,3"),
        meta(2, 0.4, "mean", "2", deploy="refit"),
    ]
    assert [each.trial for each in choices(fusions, [own])] == ["meta-0000", "meta-0001", "meta-0002"]
    assert alone(fusions, [own])["base-0000"].trial == "meta-0001"
    assert alone([fusions[0], fusions[2]], [own])["base-0000"].trial == "meta-0002", "older ledgers do not say"
    others: list[Params] = [{"deploy": "folds"}, {"flip": True}, {"member_epochs": "4,2"}]
    for other in others:
        unlike = meta(1, 0.4, "mean", "2", **{"deploy": "refit", **other})
        assert [each.trial for each in choices([unlike], [own])] == ["meta-0001", "base-0000"]


def test_a_member_and_one_that_was_paused_may_be_picked_by_name(tmp_path: Path) -> None:
    run = write_run(costly(tmp_path / "run"), base(3, 0.35, status=Status.PAUSED))
    for name in ("base-0001", "base-0003"):
        manifest = export_best(run, tmp_path / "best.toml", rule=name)
        assert manifest.trials == (name,) and manifest.origin["meta_trial"] == name
        assert not manifest.fusions


def test_a_compromise_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has milliseconds<1; the nearest is meta-0001 with milliseconds 5"):
        export_best(costly(tmp_path / "run"), tmp_path / "best.toml", rule="milliseconds<1")
    assert not (tmp_path / "best.toml").exists()


@pytest.mark.parametrize("bases", ["2", "2+1"])
def test_only_the_members_that_are_fused_are_exported_in_the_order_of_the_fusion(tmp_path: Path, bases: str) -> None:
    run = write_run(tmp_path / "run", base(0, 0.4), base(1, 0.5), meta(0, 0.6, "plain", bases))
    manifest = export_best(run, tmp_path / "best.toml")
    assert manifest.trials == {"2": ("base-0000",), "2+1": ("base-0000", "base-0001")}[bases]


def test_of_equal_scores_the_earlier_and_simpler_fusion_wins(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run",
        base(0, 0.4),
        base(1, 0.5),
        meta(0, 0.6, "mean", "1+2"),
        meta(1, 0.5, "mean", "1"),
        meta(2, 0.6, "plain"),
    )
    manifest = export_best(run, tmp_path / "best.toml")
    assert manifest.fusion.kind == "mean" and manifest.fusion.stop_epoch is None
    assert manifest.origin["meta_trial"] == "meta-0000"


def test_a_mean_that_wins_is_what_is_exported(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", base(0, 0.4), base(1, 0.5), meta(0, 0.7, "mean"), meta(1, 0.6, "plain"))
    assert export_best(run, tmp_path / "best.toml").fusion.kind == "mean"


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no search is in .*; run first: ensemble-tune run --data DATA --out "),
        ([base(0, 0.4)], "no fusion has ended in .*; run first: ensemble-tune search meta --data DATA --out "),
        ([base(0, 0.4), meta(0, None, "mean")], "no fusion has ended in"),
    ],
)
def test_a_run_without_a_fusion_is_refused(tmp_path: Path, records: list[object], message: str) -> None:
    run = write_run(tmp_path / "run", *records) if records else tmp_path  # type: ignore[arg-type]
    with pytest.raises(RunError, match=message):
        export_best(run, tmp_path / "best.toml")
    assert not (tmp_path / "best.toml").exists()


def test_a_place_that_cannot_be_written_is_refused_and_remembered_by_nobody(tmp_path: Path) -> None:
    run = usual_run(tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--to is the file to write, but .* is a folder; try .*/best.toml"):
        export_best(run, tmp_path)
    with pytest.raises(ConfigError, match="must be a folder that can be written to"):
        export_best(run, tmp_path / "file" / "best.toml")
    assert exported_trials(run) == frozenset()


def test_exported_trials_are_those_that_any_export_names(tmp_path: Path) -> None:
    run = usual_run(tmp_path / "run")
    export_best(run, tmp_path / "best.toml")
    assert exported_trials(run) == {"base-0000", "base-0001", "meta-0003"}
    write_run(run, base(3, 0.9), meta(4, 0.95, "mean", "1", members="base-0003"))
    export_best(run, tmp_path / "best.toml")
    assert exported_trials(run) == {"base-0000", "base-0001", "meta-0003", "base-0003", "meta-0004"}


def test_a_damaged_export_is_named(tmp_path: Path) -> None:
    run = usual_run(tmp_path / "run")
    export_best(run, tmp_path / "best.toml")
    (run / "exports" / "meta-0003.toml").write_text("[")
    with pytest.raises(EnsembleTuneError, match=r"exports/meta-0003\.toml"):
        exported_trials(run)


def test_the_weights_of_exported_trials_survive_a_later_extension_of_the_search(
    finished: Finished, tiles: Path, tmp_path: Path
) -> None:
    """Only the best trial is kept, and the worst, which an export names."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    out = tmp_path / "copy" / "run"
    shutil.rmtree(out / "exports")
    trials = sorted(trials_of(out, "base"), key=lambda trial: trial.score or 0)
    worst, best = trials[0].trial, trials[-1].trial
    manifest = EnsembleManifest.load(out / "best.toml")
    document = manifest.to_document()
    document["bases"] = [{**table, "trial": worst} for table in document["bases"]]
    EnsembleManifest.from_document(document).save(out / "exports" / "by-hand.toml")
    space, _ = write_spaces(tmp_path / "spaces")
    here = settings(tiles, out, tmp_path / "copy" / "cache")
    search_base(here, space=space, trials=3, epochs=8, size="32x32", strategy=Strategy(scheduler="none", keep=1))
    ranked = sorted(trials_of(out, "base"), key=lambda trial: -(trial.score or 0))
    kept = {trial.trial for trial in ranked if list((out / "checkpoints" / trial.trial).rglob("model.safetensors"))}
    assert kept == {ranked[0].trial, worst}
    assert best in kept or ranked[0].trial == "base-0002"


def test_a_member_that_was_trained_further_since_is_exported_as_it_was_fused(tmp_path: Path) -> None:
    fusion = meta(0, 0.6, "plain", "all", member_epochs="2,1")
    manifest = export_best(write_run(tmp_path / "run", base(0, 0.4), base(1, 0.5), fusion), tmp_path / "best.toml")
    assert manifest.trials == ("base-0001", "base-0000") and [b.stop_epoch for b in manifest.bases] == [2, 1]


def compared(run: Path, *trials: tuple[str, str, float], of: Params | None = None) -> Path:
    """A run whose fusions were compared: name, trial, and how often right of 100."""
    fusions = []
    for name, trial, hits in trials:
        evidence = [
            Evidence(
                of=trial,
                classes=("sky", "pole"),
                small=("pole",),
                names=tuple(f"{block}_{row}" for row in range(30)),
                sequences=(str(block),) * 30,
                confusions=np.array([[[hits + row % 3, 100 - hits], [100 - hits, hits]] for row in range(30)]).astype(
                    int
                ),
                calibration=np.zeros((15, 3)),
            )
            for block in (0, 1, 2)
        ]
        fusions.append(
            Candidate(
                name=name,
                trial=trial,
                epochs=3,
                blocks=tuple(evidence[1:]),
                val=evidence[0],
                costs={"milliseconds": 7.0},
            )
        )
    compare(fusions).save(run, of or {"members": MEMBERS, "folds": 5})
    return run


def test_the_simplest_that_none_measurably_beats_is_exported(tmp_path: Path) -> None:
    run = usual_run(tmp_path / "run")
    compared(run, ("best single", "meta-0001", 50), ("mean", "meta-0000", 60), ("plain", "meta-0003", 60))
    manifest = export_best(run, tmp_path / "best.toml")
    assert manifest.origin["meta_trial"] == "meta-0000", "on val the trained one is better"
    assert manifest.scores["crossfit_miou"] > 0.4 and manifest.scores["gain_over_best_single_low"] > 0
    assert manifest.scores["fusion_miou"] == 0.52
    assert set(manifest.fusions) == {"best_single", "mean", "plain"}, "all that were compared"
    assert manifest.fusions["best_single"]["milliseconds"] == 7.0 and not any(
        "gain" in n for n in manifest.fusions["best_single"]
    )
    assert manifest.fusions["mean"]["gain_over_best_single_low"] == manifest.scores["gain_over_best_single_low"]
    assert {"gain_over_mean_high", "small_gain_over_mean", "val_miou"} <= set(manifest.fusions["plain"])
    by_class = {name for own in manifest.fusions.values() for name in own if name.startswith("iou.")}
    ends = ("", "_low", "_high")
    assert by_class == {f"iou.{of}_gain_over_best_single{end}" for of in ("sky", "pole") for end in ends}
    assert EnsembleManifest.load(tmp_path / "best.toml") == manifest
    compared(run, ("best single", "meta-0001", 50), ("mean", "meta-0000", 60), ("plain", "meta-0003", 70))
    better = export_best(run, tmp_path / "best.toml")
    assert better.origin["meta_trial"] == "meta-0003" and set(better.scores) >= {
        "gain_over_mean",
        "gain_over_mean_high",
    }


def test_a_fusion_is_exported_by_its_name(tmp_path: Path) -> None:
    run = compared(usual_run(tmp_path / "run"), ("mean", "meta-0000", 60), ("plain", "meta-0003", 50))
    assert export_best(run, tmp_path / "best.toml", rule="meta-0002").origin["meta_trial"] == "meta-0002"
    with pytest.raises(ConfigError, match="a pick is best, knee or a bound"):
        export_best(run, tmp_path / "best.toml", rule="meta-0099")


def test_of_several_sets_of_members_that_were_compared_the_better_choice_counts(tmp_path: Path) -> None:
    others = "base-0000,base-0001"
    run = write_run(
        usual_run(tmp_path / "run"),
        meta(4, 0.59, "plain", members=others),
        meta(5, 0.5, "mean", "1+2", members=others),
    )
    compared(run, ("mean", "meta-0000", 60), ("plain", "meta-0003", 50))
    manifest = export_best(run, tmp_path / "best.toml")
    assert manifest.origin["meta_trial"] == "meta-0000", "the other set was not compared, and has no better trial"
    compared(run, ("mean", "meta-0005", 70), ("plain", "meta-0004", 60), of={"members": others, "folds": 5})
    manifest = export_best(run, tmp_path / "best.toml")
    assert manifest.origin["meta_trial"] == "meta-0005"
    assert manifest.scores["mean_miou"] == 0.5, "of the same members"
    compared(run, ("mean", "meta-0005", 40), ("plain", "meta-0004", 30), of={"members": others, "folds": 5})
    assert export_best(run, tmp_path / "best.toml").origin["meta_trial"] == "meta-0000"


def test_a_comparison_of_other_members_or_of_trials_that_are_gone_chooses_nothing(tmp_path: Path) -> None:
    run = usual_run(tmp_path / "run")
    compared(run, ("mean", "meta-0000", 60), ("plain", "meta-0077", 50))
    assert export_best(run, tmp_path / "best.toml").origin["meta_trial"] == "meta-0003"
    other = write_run(
        tmp_path / "other",
        base(0, 0.4),
        base(1, 0.5),
        meta(0, 0.5, "mean", "1"),
        meta(1, 0.7, "mean", "1+2", member_epochs="3,4"),
    )
    compared(other, ("best single", "meta-0000", 60))
    assert export_best(other, tmp_path / "best.toml").origin["meta_trial"] == "meta-0001"
    compared(other, ("mean", "meta-0001", 60), of={"members": MEMBERS, "member_epochs": "3,4", "folds": 5})
    assert "crossfit_miou" in export_best(other, tmp_path / "best.toml").scores
