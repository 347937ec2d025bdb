import dataclasses
from pathlib import Path
from typing import Literal

import pytest
import torch
from members import Members, train_members
from tiles import CLASSES, SIZE
from trial_contract import content, live

from ensemble_tune.ensemble.config import MetaConfig
from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.ensemble.meta_trial import MetaTrial
from ensemble_tune.ensemble.scoring import score_frames
from ensemble_tune.ensemble.stage_data import StageData, as_images
from ensemble_tune.ensemble.trained_ensemble import TrainedEnsemble, assemble, models_of
from ensemble_tune.errors import RunError

Deploy = Literal["refit", "folds"]


@pytest.fixture(scope="module")
def half_precision(tiles: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Members:
    """The members in the arithmetic that a processor with bfloat16 trains in."""
    threads = torch.get_num_threads()
    data = StageData(data=str(tiles), cache=cache, folds=2)
    trained = train_members(data, tmp_path_factory.mktemp("half"), "bfloat16")
    torch.set_num_threads(threads)
    return trained


def _manifest(members: Members, kind: str, deploy: Deploy, **fusion: object) -> EnsembleManifest:
    config = {"kind": kind, "width": 8, "depth": 1, "size": SIZE, "epochs": 2, "batch_size": 4, **fusion}
    return EnsembleManifest(
        bases=tuple(members.library.values()),
        fusion=MetaConfig.from_params(config),
        deploy=deploy,
        folds=2,
        classes=CLASSES,
    )


def _meta_scores(members: Members, manifest: EnsembleManifest, saved: Path) -> dict[str, float]:
    trial = MetaTrial(data=members.data, store=members.store, library=members.library)
    params = {**manifest.fusion.to_params(), "members": "one,two", "deploy": manifest.deploy}
    return dict(live(trial, params, saved)[-1].scores)


def _assembled(members: Members, manifest: EnsembleManifest, folder: Path, saved: Path) -> TrainedEnsemble:
    fusion = saved / "2" if manifest.fusion.trained else None
    assemble(folder, manifest, members.weights(manifest), fusion)
    return TrainedEnsemble.load(folder)


@pytest.mark.parametrize("deploy", ["refit", "folds"])
@pytest.mark.parametrize(("kind", "fusion"), [("mean", {}), ("depthwise_cbam", {"use_image": True, "scale": 0.5})])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.usefixtures("one_thread")
def test_what_is_deployed_is_what_was_scored(
    members: Members,
    half_precision: Members,
    precision: str,
    kind: str,
    fusion: dict[str, object],
    deploy: Deploy,
    tmp_path: Path,
) -> None:
    used = {"float32": members, "bfloat16": half_precision}[precision]
    manifest = _manifest(used, kind, deploy, precision=precision, **fusion)
    scored = _meta_scores(used, manifest, tmp_path / "saved")
    ensemble = _assembled(used, manifest, tmp_path / "ensemble", tmp_path / "saved")
    val = used.data.held_out((32, 32))
    assert val is not None
    for batch in (1, 4, 8):
        deployed = score_frames(lambda rows: ensemble(as_images([val.image(i) for i in rows])), val, batch).scores
        assert deployed == pytest.approx({name: scored[name] for name in deployed}, abs=1e-6, nan_ok=True)


@pytest.mark.usefixtures("one_thread")
def test_a_loaded_ensemble_predicts_and_never_trains(members: Members, tmp_path: Path) -> None:
    manifest = _manifest(members, "plain", "folds", base_dropout=0.5)
    _meta_scores(members, manifest, tmp_path / "saved")
    ensemble = _assembled(members, manifest, tmp_path / "ensemble", tmp_path / "saved")
    assert not any(module.training for module in ensemble.modules())
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(ensemble(images), ensemble(images))
        assert ensemble(images).shape == (2, 3, 32, 32)
        assert ensemble.member_probabilities(images).sum(2) == pytest.approx(1, abs=0.01)
    assert ensemble.parameter_count() == sum(parameter.numel() for parameter in ensemble.parameters()) > 0


def test_a_refit_member_is_one_model_and_a_folds_member_is_one_a_fold(members: Members) -> None:
    assert models_of(_manifest(members, "mean", "refit")) == (0,)
    assert models_of(_manifest(members, "mean", "folds")) == (1, 2)


def test_an_ensembles_folder_holds_weights_and_toml_alone(members: Members, tmp_path: Path) -> None:
    manifest = _manifest(members, "mean", "folds")
    assemble(tmp_path / "ensemble", manifest, members.weights(manifest), None)
    assert set(content(tmp_path / "ensemble")) == {
        "ensemble.toml",
        *(f"members/{place}-fold-{fold}/model.safetensors" for place in (1, 2) for fold in (1, 2)),
    }


def test_assembling_again_replaces_the_older_ensemble(members: Members, tmp_path: Path) -> None:
    folds, refit = (_manifest(members, "mean", deploy) for deploy in ("folds", "refit"))
    assemble(tmp_path / "ensemble", folds, members.weights(folds), None)
    assemble(tmp_path / "ensemble", refit, members.weights(refit), None)
    assert TrainedEnsemble.load(tmp_path / "ensemble").manifest == refit
    assert not (tmp_path / "ensemble" / "members" / "1-fold-1").exists()


def test_a_folder_without_an_ensemble_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no trained ensemble is in .*: ensemble.toml is missing; train one with: "):
        TrainedEnsemble.load(tmp_path)


def test_damaged_or_foreign_weights_are_refused(members: Members, tmp_path: Path) -> None:
    manifest = _manifest(members, "mean", "refit")
    assemble(tmp_path / "ensemble", manifest, members.weights(manifest), None)
    own, other = (tmp_path / "ensemble" / "members" / f"{place}-fold-0" / "model.safetensors" for place in (1, 2))
    own.write_bytes(other.read_bytes())
    with pytest.raises(RunError, match="weights must fit the model"):
        TrainedEnsemble.load(tmp_path / "ensemble")
    own.write_bytes(b"damaged")
    with pytest.raises(RunError, match="is missing or damaged"):
        TrainedEnsemble.load(tmp_path / "ensemble")


def test_an_ensemble_needs_neither_encoder_weights_nor_their_file(members: Members, tmp_path: Path) -> None:
    manifest = _manifest(members, "mean", "refit")
    bases = tuple(dataclasses.replace(base, encoder_weights="/gone.safetensors") for base in manifest.bases)
    weights = members.weights(manifest)
    assemble(tmp_path / "ensemble", dataclasses.replace(manifest, bases=bases), weights, None)
    assert TrainedEnsemble.load(tmp_path / "ensemble").parameter_count() > 0
