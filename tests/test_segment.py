import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file, save_file
from tiles import write_tiles
from tiny_run import Finished

from ensemble_tune import segment
from ensemble_tune.ensemble.frames import load_frames
from ensemble_tune.ensemble.image_file import read_image
from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.ensemble.scoring import labels_at
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.ensemble.tiles import Tiles
from ensemble_tune.ensemble.trained_ensemble import TrainedEnsemble
from ensemble_tune.errors import ConfigError, DataError, RunError
from ensemble_tune.saved_ensemble import load_ensemble
from ensemble_tune.segment import segment_images


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))


@pytest.fixture
def ensemble(finished: Finished) -> Path:
    return finished.out / "final"


def _write(path: Path, height: int, width: int, channels: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(height)
    shape = (height, width, channels) if channels > 1 else (height, width)
    cv2.imwrite(str(path), rng.integers(0, 256, shape, np.uint8))
    return path


def _mask(path: Path) -> np.ndarray:
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert mask.dtype == np.uint8 and mask.ndim == 2
    return mask


def test_every_image_gets_a_mask_of_its_own_size(ensemble: Path, tmp_path: Path) -> None:
    sizes = {"small": (20, 30), "large": (150, 90), "own": (64, 64), "working": (32, 32), "one": (1, 1)}
    for name, size in sizes.items():
        _write(tmp_path / "photos" / f"{name}.{'jpg' if name == 'large' else 'png'}", *size)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    written = list(segment_images(ensemble, tmp_path / "photos", tmp_path / "masks"))
    assert written == [tmp_path / "masks" / f"{name}.png" for name in sorted(sizes)]
    assert {path.stem: _mask(path).shape for path in written} == sizes


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_images_are_images_too(ensemble: Path, tmp_path: Path, channels: int) -> None:
    image = _write(tmp_path / "image.png", 40, 50, channels)
    (mask,) = segment_images(ensemble, image, tmp_path / "masks")
    assert _mask(mask).shape == (40, 50)


def test_pictures_and_tiffs_in_one_folder_are_all_segmented(ensemble: Path, tmp_path: Path) -> None:
    _write(tmp_path / "photos" / "preview.png", 40, 50)
    tifffile.imwrite(tmp_path / "photos" / "scan.tif", np.zeros((40, 50, 3), np.uint8), photometric="rgb")
    written = segment_images(ensemble, tmp_path / "photos", tmp_path / "masks")
    assert [path.stem for path in written] == ["preview", "scan"]


def test_one_image_may_be_given(ensemble: Path, tmp_path: Path) -> None:
    image = _write(tmp_path / "photos" / "one.JPG", 40, 50)
    _write(tmp_path / "photos" / "other.png", 40, 50)
    assert list(segment_images(ensemble, image, tmp_path / "masks")) == [tmp_path / "masks" / "one.png"]


def test_a_frame_is_segmented_as_in_the_final_training(
    ensemble: Path, finished: Finished, tiles: Path, tmp_path: Path
) -> None:
    """The masks of test, which the reported figures are of, and the masks that a user gets are the same."""
    for mask in segment_images(ensemble, tiles / "test", tmp_path / "masks"):
        assert np.array_equal(_mask(mask), _mask(ensemble / "masks" / mask.name))


def test_a_mask_is_the_ensembles_own_prediction(
    ensemble: Path, finished: Finished, tiles: Path, tmp_path: Path
) -> None:
    data = StageData(data=str(tiles), cache=finished.folder / "cache")
    frames = load_frames(data.dataset(), "val", (32, 32), data.cache)
    model = TrainedEnsemble.load(ensemble / "ensemble")
    (mask,) = segment_images(ensemble / "ensemble", tiles / "val" / "c_000.png", tmp_path / "masks")
    images = torch.from_numpy(frames.image(0).copy()).permute(2, 0, 1)[None]
    with torch.inference_mode():
        logits = torch.nn.functional.interpolate(model(images), (64, 64), mode="bilinear")
    assert np.array_equal(_mask(mask), logits[0].argmax(0).numpy())


@pytest.mark.parametrize("size", [(64, 64), (48, 20), (20, 48), (32, 50), (20, 20)])
def test_an_image_of_any_shape_is_brought_to_the_working_size_as_a_training_frame_is(
    ensemble: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    root = write_tiles(tmp_path / "tiles", {"train": {"a": 2}, "val": {"c": 1}})
    image = _write(root / "val" / "c_000.png", *size)
    cv2.imwrite(str(root / "valannot" / "c_000.png"), np.zeros(size, np.uint8))
    frames = StageData(data=str(root), cache=tmp_path / "cache").held_out((32, 32))
    assert frames is not None
    cv2.imwrite(str(tmp_path / "working.png"), frames.image(0)[..., ::-1])
    with torch.inference_mode():
        working = torch.from_numpy(read_image(tmp_path / "working.png")).permute(2, 0, 1)[None]
        logits = TrainedEnsemble.load(ensemble / "ensemble")(working)[0]
    (mask,) = segment_images(ensemble, image, tmp_path / "masks")
    assert np.array_equal(_mask(mask), labels_at(logits, size).numpy())


def test_overlays_are_written_where_asked_for(ensemble: Path, tmp_path: Path) -> None:
    image = _write(tmp_path / "one.png", 40, 50)
    list(segment_images(ensemble, image, tmp_path / "plain"))
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["one.png"]
    list(segment_images(ensemble, image, tmp_path / "masks", overlays=True))
    assert read_image(tmp_path / "masks" / "overlays" / "one.jpg").shape[1] == 2 * 50


@pytest.mark.parametrize("images", ["photos", "photos/a.png"])
def test_masks_never_replace_the_images(ensemble: Path, tmp_path: Path, images: str) -> None:
    image = _write(tmp_path / "photos" / "a.png", 40, 50)
    before = image.read_bytes()
    with pytest.raises(ConfigError, match=r"masks would replace the images in .*, or mix with them; choose another"):
        list(segment_images(ensemble, tmp_path / images, tmp_path / "photos"))
    assert image.read_bytes() == before


def test_two_images_that_would_share_a_mask_are_refused(ensemble: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        _write(tmp_path / "photos" / name, 40, 50)
    with pytest.raises(DataError, match=r"a\.jpg and a\.png would share one mask; rename one of them"):
        list(segment_images(ensemble, tmp_path / "photos", tmp_path / "masks"))


def test_a_folder_without_images_and_a_path_to_nothing_are_refused(ensemble: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no image is in .*; its files must end in \.png, \.jpg, \.jpeg"):
        list(segment_images(ensemble, tmp_path / "empty", tmp_path / "masks"))
    with pytest.raises(DataError, match=r"images are a folder or a file, but nothing is at .*; check the path"):
        list(segment_images(ensemble, tmp_path / "nothing", tmp_path / "masks"))
    assert not (tmp_path / "masks").exists()


def test_what_was_segmented_is_not_segmented_again_unless_something_has_changed(
    ensemble: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "masks"
    for name in ("a", "b", "c"):
        _write(photos / f"{name}.png", 40, 50)
    seen: list[str] = []
    read = segment.read_pixels
    monkeypatch.setattr(segment, "read_pixels", lambda kind, path: seen.append(path.stem) or read(kind, path))

    def again(of: Path = ensemble, **how: bool) -> list[str]:
        seen.clear()
        assert len(list(segment_images(of, photos, out, **how))) == 3
        return list(seen)

    next(segment_images(ensemble, photos, out))  # interrupted
    assert again() == ["b", "c"] and again() == []
    assert again(overlays=True) == ["a", "b", "c"] and again(overlays=True) == []
    later = time.time() + 10
    os.utime(photos / "b.png", (later, later))
    assert again() == ["b"]
    os.utime(photos / "b.png", (0, 0))
    assert again() == ["b"], "an older image is another one too"
    shutil.copy(out / "a.png", out / "b.png")
    assert again() == ["b"], "somebody else has written it"
    old = tmp_path / "old"
    for name in ("a", "b", "c"):
        os.utime(_write(old / f"{name}.png", 30, 30), (0, 0))
    assert len(list(segment_images(ensemble, old, out))) == 3
    assert {_mask(path).shape for path in out.glob("*.png")} == {(30, 30)}, "another folder's images of the same names"
    assert again() == ["a", "b", "c"]
    other = Path(shutil.copytree(ensemble / "ensemble", tmp_path / "other"))
    file = next(other.rglob("*.safetensors"))
    state = load_file(file)
    save_file({name: value * 1.01 if value.is_floating_point() else value for name, value in state.items()}, file)
    assert again(other) == ["a", "b", "c"], "its weights are others"
    assert again() == ["a", "b", "c"]


def test_a_broken_image_does_not_keep_the_others_from_their_masks(ensemble: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        _write(tmp_path / "photos" / f"{name}.png", 40, 50)
    for name in ("a", "c"):
        (tmp_path / "photos" / f"{name}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.png is .*, and 1 others cannot be read; 2 of 4 images"):
        list(segment_images(ensemble, tmp_path / "photos", tmp_path / "masks"))
    assert sorted(path.name for path in (tmp_path / "masks").glob("*.png")) == ["b.png", "d.png"]


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_corrupt_image_is_named_in_one_line(
    ensemble: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    image = _write(tmp_path / "photos" / "bad.jpg", 40, 50)
    image.write_bytes({"truncated": image.read_bytes()[:-200], "empty": b"", "text": b"no image"}[damage])
    with pytest.raises(DataError, match=r"photos/bad\.jpg is ") as raised:
        list(segment_images(ensemble, tmp_path / "photos", tmp_path / "masks"))
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", ""), "the decoder has something to say too"


def test_a_folder_that_cannot_be_written_is_refused(ensemble: Path, tmp_path: Path) -> None:
    image = _write(tmp_path / "photos" / "a.png", 40, 50)
    for out in (image, Path("/proc/masks")):
        with pytest.raises(ConfigError, match="must be a folder that can be written to"):
            list(segment_images(ensemble, image, out))


def test_a_run_is_segmented_with_as_its_final_training_is(finished: Finished, tmp_path: Path) -> None:
    image = _write(tmp_path / "one.png", 40, 50)
    (run,) = segment_images(finished.out, image, tmp_path / "run")
    (final,) = segment_images(finished.out / "final", image, tmp_path / "final")
    assert np.array_equal(_mask(run), _mask(final))


@pytest.mark.parametrize("what", ["run", "nothing", "manifest"])
def test_what_is_no_trained_ensemble_is_refused(finished: Finished, tmp_path: Path, what: str) -> None:
    where = {"run": finished.folder, "nothing": tmp_path / "nothing", "manifest": finished.out / "best.toml"}[what]
    with pytest.raises(RunError, match=r"no trained ensemble is in .*: ensemble\.toml is missing; train one with"):
        list(segment_images(where, _write(tmp_path / "a.png", 40, 50), tmp_path / "masks"))


def test_a_manifest_written_by_hand_is_no_trained_ensemble(tmp_path: Path) -> None:
    (tmp_path / "ensemble.toml").write_text("[[bases]]")
    with pytest.raises(RunError, match="names no classes, so it is of no trained ensemble; train it first"):
        list(segment_images(tmp_path, _write(tmp_path / "photos" / "a.png", 40, 50), tmp_path / "masks"))


@pytest.fixture
def tiled(ensemble: Path, tmp_path: Path) -> Path:
    """The ensemble as if its data set had been cut into tiles."""
    shutil.copytree(ensemble / "ensemble", tmp_path / "tiled")
    manifest = EnsembleManifest.load(tmp_path / "tiled" / "ensemble.toml")
    replace(manifest, tiles=Tiles(size=(64, 64), overlap=16)).save(tmp_path / "tiled" / "ensemble.toml")
    return tmp_path / "tiled"


def test_an_image_that_fits_a_tile_is_segmented_as_it_is_without_tiles(
    ensemble: Path, tiled: Path, tmp_path: Path
) -> None:
    for name, size in (("own", (64, 64)), ("small", (40, 50))):
        _write(tmp_path / "photos" / f"{name}.png", *size)
    for folder, model in (("whole", ensemble), ("cut", tiled)):
        list(segment_images(model, tmp_path / "photos", tmp_path / folder))
    for mask in (tmp_path / "whole").iterdir():
        assert np.array_equal(_mask(mask), _mask(tmp_path / "cut" / mask.name))


def test_a_large_image_is_seen_tile_by_tile_and_every_tile_agrees_with_itself_alone(
    tiled: Path, tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a network needs is bounded by the tile, however large the image; far from other tiles it decides alone."""
    frames = [read_image(path)[..., ::-1] for path in sorted((tiles / "train").iterdir())[:12]]
    sheet = np.concatenate([np.concatenate(frames[start : start + 4], axis=1) for start in (0, 4, 8)])
    cv2.imwrite(str(tmp_path / "large.png"), sheet)
    seen = set()
    forward = TrainedEnsemble.forward
    monkeypatch.setattr(
        TrainedEnsemble, "forward", lambda self, images: (seen.add(tuple(images.shape)), forward(self, images))[1]
    )
    (mask,) = segment_images(tiled, tmp_path / "large.png", tmp_path / "masks")
    assert _mask(mask).shape == (192, 256) and seen == {(1, 3, 32, 32)}
    cv2.imwrite(str(tmp_path / "corner.png"), sheet[:64, :64])
    (corner,) = segment_images(tiled, tmp_path / "corner.png", tmp_path / "masks")
    assert np.array_equal(_mask(corner)[:40, :40], _mask(mask)[:40, :40])


def test_an_ensemble_labels_an_array_as_segment_does(ensemble: Path, tiled: Path, tmp_path: Path) -> None:
    image = _write(tmp_path / "one.png", 90, 70)
    for model, folder in ((ensemble, "whole"), (tiled, "cut")):
        (mask,) = segment_images(model, image, tmp_path / folder)
        labels = load_ensemble(str(model)).labels(read_image(image))
        assert labels.dtype == np.uint8 and np.array_equal(labels, _mask(mask))
    for wrong in (
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3)),
        np.zeros((0, 5, 3), np.uint8),
    ):
        with pytest.raises(DataError, match=r"an image must be \(height, width, 3\) of uint8, but got"):
            load_ensemble(ensemble).labels(wrong)
