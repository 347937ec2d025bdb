import dataclasses
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from members import Members
from safetensors.numpy import load_file
from tiles import SIZE, write_tile_frame, write_tiles
from trial_contract import TrialContract, content, live

from ensemble_tune.ensemble.base_model import BaseModel
from ensemble_tune.ensemble.evidence import Evidence
from ensemble_tune.ensemble.fusion import MeanFusion
from ensemble_tune.ensemble.meta_trial import MetaTrial, evidence_identity, places
from ensemble_tune.ensemble.prediction_store import Part, PredictionStore
from ensemble_tune.ensemble.predictions import write_predictions
from ensemble_tune.ensemble.scoring import score_frames
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.errors import ConfigError, PredictionsError
from ensemble_tune.storage import remove_folder
from ensemble_tune.trial import Checkpoint, Params, SizedTrial, Trial

KINDS = (
    "mean",
    "weighted",
    "greedy",
    "linear",
    "plain",
    "standard_se",
    "depthwise_cbam",
    "dilated_spatial",
    "group_eca",
)
PARAMS: Params = {
    "kind": "plain",
    "width": 8,
    "depth": 1,
    "size": SIZE,
    "epochs": 2,
    "batch_size": 4,
    "members": "one,two",
    "bases": "all",
    "deploy": "refit",
    "stacking": "out-of-fold",
    "folds": 2,
    "seed": 3,
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestMetaTrial(TrialContract):
    @pytest.fixture(autouse=True)
    def _made_of(self, members: Members, kind: str) -> None:
        self.members = members
        self.kind = kind

    def trial(self, out: Path) -> Trial:
        return _trial(self.members)

    def params(self) -> Params:
        varied = {"base_dropout": 0.3, "use_image": True, "augmentation": 0.5, "scale": 0.5}
        return {**PARAMS, **varied, "kind": self.kind}


def _trial(members: Members, data: StageData | None = None, store: Path | None = None) -> MetaTrial:
    return MetaTrial(data=data or members.data, store=store or members.store, library=members.library)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_fusion_that_was_trained_before_is_loaded(members: Members, tmp_path: Path, interrupted: bool) -> None:
    before = live(_trial(members), PARAMS, tmp_path / "before")
    start = Checkpoint(tmp_path / "before" / "2", 2)
    resume = Checkpoint(tmp_path / "before" / "1", 1) if interrupted else None
    (loaded,) = dataclasses.replace(_trial(members), starts={"": start})(PARAMS, resume)
    (tmp_path / "loaded").mkdir()
    loaded.save(tmp_path / "loaded")
    assert (loaded.epoch, loaded.scores["miou"]) == (2, before[1].scores["miou"])
    assert content(tmp_path / "loaded") == content(start.folder)


@pytest.mark.usefixtures("one_thread")
def test_no_member_runs_in_a_meta_trial(
    members: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(BaseModel, "forward", lambda *_: pytest.fail("a base model ran"))
    monkeypatch.setattr(BaseModel, "__init__", lambda *_: pytest.fail("a base model was built"))
    assert live(_trial(members), {**PARAMS, "kind": kind}, tmp_path)


@pytest.mark.usefixtures("one_thread")
def test_the_mean_has_one_epoch_and_learns_nothing(members: Members, tmp_path: Path) -> None:
    (result,) = live(_trial(members), {**PARAMS, "kind": "mean"}, tmp_path)
    assert result.epoch == 1 and list((tmp_path / "1").iterdir()) == []


@pytest.mark.parametrize("bases", ["1", "2", "2+1", "all"])
@pytest.mark.usefixtures("one_thread")
def test_bases_choose_members_by_their_place(members: Members, tmp_path: Path, bases: str) -> None:
    chosen = {"1": ["one"], "2": ["two"], "2+1": ["two", "one"], "all": ["one", "two"]}[bases]
    (result,) = live(_trial(members), {**PARAMS, "kind": "mean", "bases": bases}, tmp_path)
    store, val = PredictionStore(members.store, members.data), members.data.held_out((32, 32))
    assert val is not None
    saved = [store.open(members.library[name], 0, "val") for name in chosen]

    def logits_of(rows: range) -> torch.Tensor:
        stacks = np.stack([np.stack([own[val.names[i]] for own in saved]) for i in rows])
        return MeanFusion()(torch.from_numpy(stacks))

    expected = score_frames(logits_of, val, 2).scores  # type: ignore[arg-type]
    assert result.scores["miou"] == expected["miou"]
    assert result.scores["loss"] == pytest.approx(expected["loss"], rel=1e-5)


@pytest.mark.usefixtures("one_thread")
def test_deploy_folds_is_scored_on_the_fold_models(members: Members, tmp_path: Path) -> None:
    """Without the refit models' predictions; and with other scores than theirs."""
    params = {**PARAMS, "kind": "mean"}
    (refit,) = live(_trial(members), params, tmp_path / "refit")
    (folds,) = live(_trial(members), {**params, "deploy": "folds"}, tmp_path / "folds")
    assert refit.scores["loss"] != folds.scores["loss"]


def _copied_store(members: Members, folder: Path) -> PredictionStore:
    shutil.copytree(members.store, folder)
    return PredictionStore(folder, members.data)


@pytest.mark.usefixtures("one_thread")
def test_a_fusion_learns_from_out_of_fold_predictions_alone(members: Members, tmp_path: Path) -> None:
    store = _copied_store(members, tmp_path / "store")
    for config in members.library.values():
        remove_folder(store.folder(config, 0, "train"))
    live(_trial(members, store=store.root), PARAMS, tmp_path / "saved")
    remove_folder(store.folder(members.library["two"], 2, "held-out"))
    with pytest.raises(PredictionsError, match="no predictions are in"):
        next(_trial(members, store=store.root)(PARAMS, None))


@pytest.mark.usefixtures("one_thread")
def test_predictions_of_a_models_own_training_frames_are_refused_as_held_out_ones(
    members: Members, tmp_path: Path
) -> None:
    store, config = _copied_store(members, tmp_path / "store"), members.library["one"]
    remove_folder(store.folder(config, 1, "held-out"))
    store.folder(config, 0, "train").rename(store.folder(config, 1, "held-out"))
    with pytest.raises(PredictionsError, match="are of fold 0, not 1"):
        next(_trial(members, store=store.root)(PARAMS, None))


@pytest.mark.usefixtures("one_thread")
def test_in_sample_stacking_learns_from_other_predictions(members: Members, tmp_path: Path) -> None:
    honest = live(_trial(members), PARAMS, tmp_path / "honest")
    leaking = live(_trial(members), {**PARAMS, "stacking": "in-sample"}, tmp_path / "leaking")
    assert honest[0].scores["train_loss"] != leaking[0].scores["train_loss"]


@pytest.mark.usefixtures("one_thread")
def test_val_labels_never_touch_the_weights_of_a_fusion(members: Members, tmp_path: Path) -> None:
    live(_trial(members), PARAMS, tmp_path / "clean")
    root = write_tiles(tmp_path / "tiles")
    data = StageData(data=str(root), cache=tmp_path / "cache", folds=2)
    before = PredictionStore(members.store, members.data)
    for frame in data.dataset().splits["val"]:
        write_tile_frame(root, "val", frame.name, label=2)
    after = PredictionStore(tmp_path / "store", data := dataclasses.replace(data, cache=tmp_path / "cache-2"))
    _adopt(members, before, after)
    poisoned = live(_trial(members, data, after.root), PARAMS, tmp_path / "poisoned")
    for epoch in ("1", "2"):
        one, other = (load_file(tmp_path / kind / epoch / "model.safetensors") for kind in ("clean", "poisoned"))
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert poisoned[0].scores["iou.pole"] != 0 and np.isnan(poisoned[0].scores["iou.road"]), "val is not poisoned"


def _adopt(members: Members, before: PredictionStore, after: PredictionStore) -> None:
    """The same predictions, as if they were of the other data set."""
    for config in members.library.values():
        for fold, part in ((1, "held-out"), (2, "held-out"), (0, "val")):
            old = before.open(config, fold, part)  # type: ignore[arg-type]
            stamp = after.stamp(config, fold, part)  # type: ignore[arg-type]
            folder = after.folder(config, fold, part)  # type: ignore[arg-type]
            write_predictions(folder, stamp, (old[name].copy() for name in stamp.frames))


@pytest.mark.parametrize(
    ("bases", "message"),
    [
        ("3", "different members of 1 to 2, but got '3'"),
        ("0", "different members of 1 to 2"),
        ("1+1", "different members of 1 to 2"),
        ("best", 'must be "all" or places such as "1\\+3", but got \'best\''),
        ("", 'must be "all" or places'),
        ("²", 'must be "all" or places'),
    ],
)
def test_bases_that_name_no_members_are_refused(bases: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        places(bases, 2)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", ["mean", "greedy", "plain"])
def test_a_block_is_scored_by_out_of_fold_predictions(members: Members, tmp_path: Path, kind: str) -> None:
    trial = dataclasses.replace(_trial(members), evidence=tmp_path / "evidence")
    results = live(trial, {**PARAMS, "kind": kind, "block": 1, "of": "meta-0007"}, tmp_path / "one")
    frames = members.data.training((32, 32))
    held_out = [frames.names[row] for row in (members.data.fold_of(frames) == 1).nonzero()[0]]
    identity = evidence_identity({**PARAMS, "kind": kind, "block": 1, "of": "meta-0007"})
    found = Evidence.open(tmp_path / "evidence" / "meta-0007-block-1", identity)
    assert ["miou" in result.scores for result in results] == [*[False] * (len(results) - 1), True]
    assert sorted(found.names) == sorted(held_out)


@pytest.mark.usefixtures("one_thread")
def test_the_greedy_mean_of_few_gives_no_weight_to_those_that_know_nothing(members: Members, tmp_path: Path) -> None:
    shutil.copytree(members.store, tmp_path / "store")
    store, known = PredictionStore(tmp_path / "store", members.data), members.library["one"]
    blind = {name: dataclasses.replace(known, seed=seed) for name, seed in (("two", 98), ("three", 99))}
    for config, fold in product(blind.values(), (0, 1, 2)):
        part: Part = "held-out" if fold else "val"
        found, stamp = store.open(known, fold, part), store.stamp(config, fold, part)
        write_predictions(store.folder(config, fold, part), stamp, (found[name][::-1].copy() for name in stamp.frames))
    trial = dataclasses.replace(_trial(members, store=store.root), library={"one": known, **blind})
    (result,) = live(trial, {**PARAMS, "kind": "greedy", "members": "one,two,three"}, tmp_path / "greedy")
    (logits,) = load_file(tmp_path / "greedy" / str(result.epoch) / "model.safetensors").values()
    weights = np.exp(logits) / np.exp(logits).sum()
    assert weights.tolist() == pytest.approx([1, 0, 0], abs=1e-6)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", ["weighted", "greedy", "linear", "plain"])
def test_labels_of_the_scored_block_never_touch_the_weights_of_a_fusion(
    members: Members, tmp_path: Path, kind: str
) -> None:
    params: Params = {**PARAMS, "kind": kind, "block": 1, "of": "meta-0007"}
    clean = live(_trial(members), params, tmp_path / "clean")
    root = write_tiles(tmp_path / "tiles")
    data = dataclasses.replace(members.data, data=str(root), cache=tmp_path / "cache")
    frames = data.training((32, 32))
    for row in (data.fold_of(frames) == 1).nonzero()[0]:
        write_tile_frame(root, "train", frames.names[row], label=2)
    after = PredictionStore(tmp_path / "store", data := dataclasses.replace(data, cache=tmp_path / "cache-2"))
    _adopt(members, PredictionStore(members.store, members.data), after)
    poisoned = live(_trial(members, data, after.root), params, tmp_path / "poisoned")
    for result in clean:
        one, other = (
            load_file(tmp_path / run / str(result.epoch) / "model.safetensors") for run in ("clean", "poisoned")
        )
        assert one and all(np.array_equal(one[name], other[name]) for name in one)
    assert np.isnan(poisoned[-1].scores["iou.road"]) and not np.isnan(clean[-1].scores["iou.road"]), "not poisoned"
    learned = live(_trial(members, data, after.root), {**params, "block": 2}, tmp_path / "learned")
    same = live(_trial(members), {**params, "block": 2}, tmp_path / "same")
    assert kind == "greedy" or learned[0].scores["train_loss"] != same[0].scores["train_loss"], "labels matter"


@pytest.mark.usefixtures("one_thread")
def test_a_fusion_that_was_fitted_before_is_fitted_again_on_other_blocks(members: Members, tmp_path: Path) -> None:
    live(_trial(members), PARAMS, tmp_path / "before")
    start = Checkpoint(tmp_path / "before" / "2", 2)
    trial = dataclasses.replace(_trial(members), starts={"meta-0007": start}, evidence=tmp_path / "evidence")
    whole = live(trial, {**PARAMS, "of": "meta-0007", "block": 0}, tmp_path / "whole")
    block = live(trial, {**PARAMS, "of": "meta-0007", "block": 2}, tmp_path / "block")
    assert (len(whole), len(block)) == (1, 2)
    val = members.data.held_out((32, 32))
    assert val is not None
    identity = evidence_identity({**PARAMS, "of": "meta-0007", "block": 0})
    assert Evidence.open(tmp_path / "evidence" / "meta-0007-block-0", identity).names == val.names


@pytest.mark.usefixtures("one_thread")
def test_mirrored_frames_change_what_is_fused_and_double_the_time_of_members(members: Members, tmp_path: Path) -> None:
    costs = {"one": {"milliseconds": 3.0, "parameters": 2.0}, "two": {"milliseconds": 5.0, "parameters": 2.0}}
    trial = dataclasses.replace(_trial(members), costs=costs)
    (plain,) = live(trial, {**PARAMS, "kind": "mean"}, tmp_path / "plain")
    with pytest.raises(PredictionsError, match="no predictions are in"):
        next(trial({**PARAMS, "kind": "mean", "flip": True}, None))
    store = _copied_store(members, tmp_path / "store")
    for config in members.library.values():
        # Mirrored frames' predictions, here simply others.
        old, stamp = store.open(config, 0, "val"), store.stamp(config, 0, "val", flip=True)
        turned = (old[name][:, :, ::-1].copy() for name in stamp.frames)
        write_predictions(store.folder(config, 0, "val", flip=True), stamp, turned)
    flipping = dataclasses.replace(trial, store=store.root)
    (flipped,) = live(flipping, {**PARAMS, "kind": "mean", "flip": True}, tmp_path / "flipped")
    assert flipped.scores["loss"] != plain.scores["loss"]
    assert flipped.scores["parameters"] == plain.scores["parameters"] == 4.0
    assert flipped.scores["milliseconds"] >= 16.0 > plain.scores["milliseconds"] >= 8.0


def test_a_fusion_says_what_it_takes_of_a_gpu(members: Members) -> None:
    trial = _trial(members)
    assert isinstance(trial, SizedTrial)
    narrow, wide = (trial.gpu_bytes({**PARAMS, "width": width, "batch_size": 128}) for width in (8, 64))
    assert trial.gpu_bytes({**PARAMS, "bases": "1", "batch_size": 128}) < narrow < wide
