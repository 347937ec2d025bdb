import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from members import Members
from tiles import CLASSES, SIZE
from trial_contract import TrialContract, live

from ensemble_tune.comparison import measured
from ensemble_tune.ensemble.config import MetaConfig
from ensemble_tune.ensemble.ensemble_trial import EnsembleTrial
from ensemble_tune.ensemble.evidence import Evidence
from ensemble_tune.ensemble.frames import load_frames
from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.ensemble.metrics import Confusion
from ensemble_tune.ensemble.trained_ensemble import assemble
from ensemble_tune.trial import Params, Trial


class TestEnsembleTrial(TrialContract):
    @pytest.fixture(autouse=True)
    def _made_of(self, members: Members, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.members = members
        self.folder = _assembled(members, tmp_path_factory.mktemp("ensemble") / "ensemble")

    def trial(self, out: Path) -> Trial:
        return EnsembleTrial(data=self.members.data, ensemble=self.folder, pictures=out, split="test")

    def params(self) -> Params:
        return {"split": "test", "ensemble": "c0ffee"}


def _assembled(members: Members, folder: Path, bases: int = 2) -> Path:
    manifest = EnsembleManifest(
        bases=tuple(members.library.values())[:bases],
        fusion=MetaConfig.from_params({"kind": "mean", "size": SIZE}),
        folds=2,
        classes=CLASSES,
    )
    assemble(folder, manifest, members.weights(manifest)[:bases], None)
    return folder


def _measured(members: Members, tmp_path: Path, *, bases: int = 2, split: str = "test") -> dict[str, float]:
    folder = _assembled(members, tmp_path / "ensemble", bases)
    trial = EnsembleTrial(data=members.data, ensemble=folder, pictures=tmp_path / "out", split=split)
    return dict(live(trial, {}, tmp_path / "saved")[0].scores)


@pytest.mark.usefixtures("one_thread")
def test_the_written_masks_give_the_very_scores_that_are_reported(members: Members, tmp_path: Path) -> None:
    scores = _measured(members, tmp_path)
    data = members.data
    frames = load_frames(data.dataset(), "test", (32, 32), data.cache)
    assert {path.stem for path in (tmp_path / "out" / "masks").iterdir()} == set(frames.names)
    confusion = Confusion(len(CLASSES))
    for row, name in enumerate(frames.names):
        mask = cv2.imread(str(tmp_path / "out" / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert mask.dtype == np.uint8 and mask.shape == frames.truth(row).shape == (64, 64) and mask.max() < 3
        confusion.add(torch.from_numpy(mask).long(), torch.from_numpy(np.array(frames.truth(row))))
    expected = confusion.scores(CLASSES, ("pole",))
    assert {name: scores[name] for name in expected} == expected


@pytest.mark.usefixtures("one_thread")
def test_the_evidence_behind_every_score_is_kept(members: Members, tmp_path: Path) -> None:
    scores = _measured(members, tmp_path)
    for name, score in (("ensemble", "miou"), ("mean", "mean.miou"), ("member-2", "member-2.miou")):
        evidence = Evidence.open(tmp_path / "out" / "evidence" / name)
        assert measured(evidence).miou == pytest.approx(scores[score]) and len(evidence.names) == 4


@pytest.mark.usefixtures("one_thread")
def test_a_picture_stands_beside_every_mask(members: Members, tmp_path: Path) -> None:
    _measured(members, tmp_path)
    pictures = sorted((tmp_path / "out" / "overlays").iterdir())
    assert [path.name for path in pictures] == ["d_000.jpg", "d_001.jpg", "d_002.jpg", "d_003.jpg"]
    assert cv2.imread(str(pictures[0])).shape[1] == 4 * 64


@pytest.mark.usefixtures("one_thread")
def test_the_mean_and_every_member_are_measured_beside_it(members: Members, tmp_path: Path) -> None:
    scores = _measured(members, tmp_path)
    assert scores["mean.miou"] == scores["miou"], "the fusion of this ensemble is the mean"
    alone = _measured(members, tmp_path / "alone", bases=1)
    assert alone["miou"] == scores["member-1.miou"] != scores["member-2.miou"]
    assert not any(name.startswith(("mean.", "member-")) for name in alone)
    assert not any(name.startswith("mean.iou.") for name in scores)


@pytest.mark.usefixtures("one_thread")
def test_val_can_be_measured_where_there_is_no_test(members: Members, tmp_path: Path) -> None:
    scores = _measured(members, tmp_path, split="val")
    assert not math.isnan(scores["miou"])
    assert json.dumps(scores)
    assert {path.stem for path in (tmp_path / "out" / "masks").iterdir()} == {f"c_{i:03d}" for i in range(4)}
