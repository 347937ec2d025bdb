import dataclasses
import hashlib
import inspect
import json
import tomllib
from pathlib import Path

import pytest

from ensemble_tune.ensemble import manifest
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.image_spec import ImageSpec
from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.ensemble.tiles import Tiles
from ensemble_tune.errors import ConfigError

FULL = EnsembleManifest(
    bases=(
        BaseConfig(size=(64, 96), stop_epoch=4, seed=1),
        BaseConfig(architecture="deeplabv3", encoder="resnet18", size=(64, 96), encoder_weights="imagenet"),
    ),
    fusion=MetaConfig(kind="group_eca", size=(64, 96), stop_epoch=2),
    deploy="folds",
    stacking="in-sample",
    folds=4,
    split="blocks",
    data="/data/CamVid",
    data_digest="c0ffee",
    classes=("road", "car"),
    trials=("base-0003", "base-0001"),
    scores={"fusion_miou": 0.5, "mean_miou": 0.25},
    members={"base-0003": {"milliseconds": 3.0, "weight": 0.25}, "base-0001": {}},
    fusions={"best_single": {"crossfit_miou": 0.5}, "mean": {"gain_over_best_single": 0.01}},
    origin={"torch": "2.14", "meta_trial": "meta-0004"},
)
HAND_WRITTEN = """
size = "64x96"
epochs = 5

[[bases]]
encoder = "resnet18"

[[bases]]
encoder = "resnet34"
epochs = 7
"""


def _load(tmp_path: Path, text: str) -> EnsembleManifest:
    path = tmp_path / "best.toml"
    path.write_text(text)
    return EnsembleManifest.load(path)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    FULL.save(tmp_path / "deep" / "best.toml")
    assert EnsembleManifest.load(tmp_path / "deep" / "best.toml") == FULL
    assert EnsembleManifest.from_document(FULL.to_document()) == FULL


def test_what_the_data_says_of_images_and_tiles_is_kept_and_left_out_where_it_says_nothing(tmp_path: Path) -> None:
    images = ImageSpec(channels=2, bits=16, mean=(1.5, 2.0), std=(3.0, 4.0))
    told = dataclasses.replace(FULL, images=images, tiles=Tiles(size=(64, 96), overlap=8))
    told.save(tmp_path / "best.toml")
    assert EnsembleManifest.load(tmp_path / "best.toml") == told
    assert told.digest() == FULL.digest() and not {"images", "tiles"} & set(FULL.to_document())
    with pytest.raises(ConfigError, match=r"images\.channels must be a whole number within 1\.\.64, but got 0"):
        _load(tmp_path, f"{HAND_WRITTEN}[images]\nchannels = 0\n")


def test_a_manifest_written_by_hand_needs_its_bases_alone(tmp_path: Path) -> None:
    loaded = _load(tmp_path, "[[bases]]\n")
    assert loaded.bases == (BaseConfig(),)
    assert loaded.fusion.kind == "mean"
    assert (loaded.deploy, loaded.stacking, loaded.folds, loaded.split) == ("refit", "out-of-fold", 3, "official")


def test_the_example_in_the_docs_is_a_manifest(tmp_path: Path) -> None:
    text = inspect.getdoc(manifest) or ""
    example = "\n".join(line.removeprefix("    ") for line in text.splitlines() if line.startswith("    "))
    assert [base.architecture for base in _load(tmp_path, example).bases] == ["unet", "deeplabv3"]


def test_a_setting_on_top_holds_for_all_bases_that_do_not_say_otherwise(tmp_path: Path) -> None:
    loaded = _load(tmp_path, HAND_WRITTEN)
    assert [(base.encoder, base.epochs, base.size) for base in loaded.bases] == [
        ("resnet18", 5, (64, 96)),
        ("resnet34", 7, (64, 96)),
    ]
    assert loaded.fusion.size == (64, 96)


def test_a_base_without_a_trial_may_be_added_to_an_exported_manifest(tmp_path: Path) -> None:
    FULL.save(tmp_path / "best.toml")
    text = (tmp_path / "best.toml").read_text() + '\n[[bases]]\nencoder = "resnet50"\nsize = "64x96"\n'
    loaded = _load(tmp_path, text)
    assert loaded.trials == ("base-0003", "base-0001", "")
    loaded.save(tmp_path / "again.toml")
    assert EnsembleManifest.load(tmp_path / "again.toml") == loaded


def test_settings_given_at_training_replace_those_of_all_bases() -> None:
    changed = FULL.with_settings(epochs=9, batch_size=2, learning_rate=0.1, size="32x64", seed=3)
    for base in changed.bases:
        assert (base.epochs, base.batch_size, base.learning_rate, base.size, base.seed) == (9, 2, 0.1, (32, 64), 3)
        assert base.stop_epoch is None, "other epochs are another schedule, trained to its end"
    assert changed.fusion.size == (32, 64)
    assert changed.fusion.epochs == FULL.fusion.epochs and changed.fusion.stop_epoch == 2
    assert FULL.with_settings() == FULL
    assert FULL.with_settings(batch_size=3).bases[0].stop_epoch == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, but got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, but got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0 and at most 1, but got -1.0"),
        ({"size": "big"}, "a size is HEIGHTxWIDTH in pixels, but got 'big'; try 360x480"),
        ({"size": "8x8"}, "size must be at least 32x32 pixels, but got '8x8'"),
        ({"seed": -1}, "seed must be at least 0, but got -1"),
    ],
)
def test_settings_of_no_use_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FULL.with_settings(**settings)  # type: ignore[arg-type]


def test_the_digest_names_what_is_trained_and_nothing_else() -> None:
    same = EnsembleManifest.from_document({**FULL.to_document(), "scores": {}, "from": {}, "data": "elsewhere"})
    assert same.digest() == FULL.digest()
    for change in ({"deploy": "refit"}, {"stacking": "out-of-fold"}, {"folds": 3}, {"fusion": {"kind": "mean"}}):
        assert EnsembleManifest.from_document({**FULL.to_document(), **change}).digest() != FULL.digest()
    assert dataclasses.replace(FULL, split="official").digest() != FULL.digest()
    assert FULL.with_settings(seed=9).digest() != FULL.digest()


def test_the_digest_of_the_official_split_is_that_of_manifests_before_there_were_splits() -> None:
    one = dataclasses.replace(FULL, split="official")
    plain = [[base.to_params() for base in one.bases], one.fusion.to_params(), one.deploy, one.stacking, one.folds]
    assert one.digest() == hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def test_two_bases_of_other_seeds_are_two_members(tmp_path: Path) -> None:
    assert len(_load(tmp_path, "[[bases]]\nseed = 1\n[[bases]]\nseed = 2\n").bases) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an ensemble needs at least one base model; add a [[bases]] table"),
        ("[[bases]]\n[[bases]]", "two bases are the same model, so that one adds nothing; give one of them another"),
        ("[bases]\nencoder = 'resnet18'", "bases must be tables; write each as [[bases]]"),
        ("bases = ['unet']", "bases must be tables"),
        ("fusion = 'mean'\n[[bases]]", "fusion must be a table; write it as [fusion]"),
        ("[[bases]]\n[fusion]\nkind = 'meen'", "kind cannot be 'meen'; did you mean 'mean'?"),
        ("[[bases]]\n[fusion]\nwidht = 8", "no setting is called 'widht'; did you mean 'width'?"),
        ("[[bases]]\narchitektur = 'unet'", "no setting is called 'architektur'; did you mean 'architecture'?"),
        ("deplyo = 'folds'\n[[bases]]", "a manifest has no key 'deplyo'; did you mean 'deploy'?"),
        ("deploy = 'fold'\n[[bases]]", "deploy cannot be 'fold'; did you mean 'folds'?"),
        ("stacking = 'in_sample'\n[[bases]]", "stacking cannot be 'in_sample'; did you mean 'in-sample'?"),
        ("deploy = 3\n[[bases]]", "deploy cannot be 3; valid: folds, refit"),
        ("split = 'block'\n[[bases]]", "split cannot be 'block'; did you mean 'blocks'?"),
        ("folds = 1\n[[bases]]", "folds must be at least 2, but got 1; try 3"),
        ("folds = 1_000_000_000\n[[bases]]", "folds must be at most 100000, but got 1000000000; try 3"),
        ("[[bases]]\nseed = 9223372036854775808", "a whole number in it is larger than 64 bits hold"),
        (f"size = '{'9' * 5000}x480'\n[[bases]]", "a size is HEIGHTxWIDTH in pixels, but got '999"),
        (f"size = {'9' * 5000}\n[[bases]]", "a manifest is a readable TOML file, but"),
        (f"[[bases]]\nx = {'[' * 5000}", "it is nested too deeply"),
        ("[[bases]]\n[fusion]\nwidth = 5000", "width must be at most 4096, but got 5000"),
        ("[[bases]]\n[fusion]\ndepth = 101", "depth must be at most 100, but got 101"),
        ("folds = 2.0\n[[bases]]", "folds must be a whole number, but got 2.0"),
        ("format = 2\n[[bases]]", "format must be 1, but got 2; export again with this version"),
        ("data = 3\n[[bases]]", "data must be a text, but got 3"),
        ("classes = 'road'\n[[bases]]", "classes must be a list of texts, but got 'road'"),
        ("size = 360\n[[bases]]", "a size is HEIGHTxWIDTH in pixels, but got '360'; try 360x480"),
        (
            "[[bases]]\nsize = '64x64'\n[[bases]]\nsize = '64x96'",
            "must work at one size, but got 64x64, 64x96; set size",
        ),
        ("[[bases]]\nsize = '64x64'\n[fusion]\nsize = '32x32'", "must work at one size, but got 32x32, 64x64"),
        ("[[bases]]\n[scores]\nmiou = 'good'", "scores must be a table of numbers"),
        ("[[bases]]\n[members]\nbase-0001 = 3", "members.base-0001 must be a table of numbers"),
        ("fusions = [1]\n[[bases]]", "fusions must be a table of tables of numbers"),
        ("[[bases]]\n[fusions.mean]\nmiou = 'good'", "fusions.mean must be a table of numbers"),
        ("[[bases]]\n[from]\ntorch = 2", "from must be a table of texts"),
        ("[[bases]\n", "a manifest is a readable TOML file, but"),
    ],
)
def test_every_refusal_is_one_line_that_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        _load(tmp_path, text)
    assert message in str(raised.value)
    assert str(tmp_path / "best.toml") in str(raised.value) and "\n" not in str(raised.value)


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "binary.toml", tmp_path):
        with pytest.raises(ConfigError, match="a manifest is a readable TOML file, but"):
            EnsembleManifest.load(path)


def test_a_missing_manifest_names_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no manifest is at .*; write one with: ensemble-tune export RUN --to"):
        EnsembleManifest.load(tmp_path / "none.toml")


def test_a_saved_manifest_is_plain_toml(tmp_path: Path) -> None:
    FULL.save(tmp_path / "best.toml")
    document = tomllib.loads((tmp_path / "best.toml").read_text())
    assert document["format"] == 1 and document["bases"][0]["trial"] == "base-0003"
    assert document["bases"][0]["size"] == "64x96"
