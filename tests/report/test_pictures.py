import base64
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from tiles import LENGTHS, write_tiles
from tiny_run import Finished

from ensemble_tune.ensemble.bootstrap import ious, mean_of_numbers
from ensemble_tune.final_folder import FinalFolder
from ensemble_tune.report.pictures import pictures


def trained(finished: Finished) -> FinalFolder:
    found = FinalFolder.read(finished.out / "final")
    assert found is not None
    return found


def test_the_worst_and_the_best_frames_are_shown(finished: Finished) -> None:
    final = trained(finished)
    found = pictures(final, cache=finished.folder / "cache")
    evidence = final.evidence["ensemble"]
    order = np.argsort(mean_of_numbers(ious(evidence.confusions)))
    names = [evidence.names[row] for row in order]
    assert [picture.name for picture in found.worst] == names[:2]
    assert [picture.name for picture in found.best] == names[:1:-1]
    assert [name for name, _ in found.legend] == ["road", "car", "pole"]


def test_a_picture_is_the_frame_and_what_was_made_of_it(finished: Finished, tiles: Path) -> None:
    picture = pictures(trained(finished), cache=finished.folder / "cache").worst[0]
    shown = {}
    for name in ("frame", "truth", "prediction"):
        kind, _, text = getattr(picture, name).partition(",")
        assert kind == "data:image/webp;base64"
        shown[name] = cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)
        assert shown[name].shape == (64, 64, 3) == (picture.height, picture.width, 3)
    own = cv2.imread(str(tiles / "test" / f"{picture.name}.png"))
    tiles_of = [cv2.resize(each, (8, 8), interpolation=cv2.INTER_AREA).astype(int) for each in (shown["frame"], own)]
    assert np.abs(tiles_of[0] - tiles_of[1]).mean() < 10, "the noise is lost, the tiles are not"
    assert (shown["truth"] != shown["prediction"]).any()


def test_what_cannot_be_shown_is_told(finished: Finished, tmp_path: Path) -> None:
    final, cache = trained(finished), finished.folder / "cache"
    assert "come with the final training" in pictures(None).told
    assert "train again" in pictures(replace(final, evidence={})).told
    stored = replace(final, manifest=replace(final.manifest, data="s3://bucket/frames"))
    assert "not on this machine (s3://bucket/frames)" in pictures(stored).told
    assert (
        "say where they are with --data" in pictures(replace(final, manifest=replace(final.manifest, data=None))).told
    )
    assert "no folder is at" in pictures(final, str(tmp_path / "nowhere"), cache).told
    other = write_tiles(tmp_path / "other", {**LENGTHS, "train": {"a": 4, "b": 4}})
    assert "is not the data" in pictures(final, str(other), cache).told


def test_data_of_the_same_kind_with_other_frames_or_sizes_is_told(finished: Finished, tmp_path: Path) -> None:
    """An ensemble of an older version does not say which data it was trained on."""
    final, cache = trained(finished), finished.folder / "cache"
    unsure = replace(final, manifest=replace(final.manifest, data_digest=None))

    def told(change: Callable[[Path], object]) -> str:
        data = write_tiles(tmp_path / f"{len(list(tmp_path.iterdir()))}")
        change(data)
        return pictures(unsure, str(data), cache).told

    assert told(lambda data: None).startswith("Of 4 frames of test")
    fewer = told(lambda data: [(data / folder / "d_002.png").unlink() for folder in ("test", "testannot")])
    without = told(lambda data: [shutil.rmtree(data / folder) for folder in ("test", "testannot")])
    larger = told(
        lambda data: [enlarge(file) for folder in ("test", "testannot") for file in (data / folder).iterdir()]
    )
    for each in (fewer, without, larger):
        assert "is not the data that the ensemble was measured on; give that with --data" in each


def enlarge(file: Path) -> None:
    picture = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(file), cv2.resize(picture, (96, 80), interpolation=cv2.INTER_NEAREST))
