import os
import shutil
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from filelock import FileLock
from tiny_frames import write_frame, write_sequences

from ensemble_tune.ensemble import disk_cache, frame_cache
from ensemble_tune.ensemble.dataset import Dataset, open_dataset
from ensemble_tune.ensemble.frames import IGNORED, load_frames, read_image
from ensemble_tune.ensemble.labels import scaled_labels
from ensemble_tune.errors import ConfigError, DataError

SIZE = (4, 4)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def dataset(tmp_path: Path, cache: Path) -> Dataset:
    root = write_sequences(tmp_path / "data", "train", {"a": 4})
    write_frame(root, "train", "b_00000", size=(8, 20))
    write_sequences(root, "val", {"c": 2})
    return open_dataset(root, cache)


def raw(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_images_are_rgb_shrunk_by_area(dataset: Dataset, cache: Path) -> None:
    frames = load_frames(dataset, "train", SIZE, cache)
    bgr = raw(dataset.splits["train"][1].image)
    assert np.array_equal(frames.image(1), cv2.resize(bgr, SIZE[::-1], interpolation=cv2.INTER_AREA)[..., ::-1])


def test_labels_are_scaled_so_that_thin_things_stay_whole(dataset: Dataset, cache: Path) -> None:
    frames = load_frames(dataset, "train", SIZE, cache)
    for i in range(len(frames)):
        assert np.array_equal(frames.label(i), scaled_labels(frames.truth(i), SIZE))


def test_truth_has_each_frames_own_size_and_unlabelled_is_ignored(dataset: Dataset, cache: Path) -> None:
    frames = load_frames(dataset, "train", SIZE, cache)
    assert frames.names[-1] == "b_00000"
    for i, frame in enumerate(dataset.splits["train"]):
        mask = raw(frame.mask)
        assert np.array_equal(frames.truth(i), np.where(mask == 11, IGNORED, mask))
    assert frames.truth(4).shape == (8, 20)


def test_subset_and_join_keep_names_and_pixels_together(dataset: Dataset, cache: Path) -> None:
    train, val = (load_frames(dataset, split, SIZE, cache) for split in ("train", "val"))
    both = train.subset(np.array([4, 0])).join(val)
    assert both.names == ("b_00000", "a_00000", "c_00000", "c_00001")
    assert both.sequences == ("b", "a", "c", "c")
    assert np.array_equal(both.image(0), train.image(4))
    assert np.array_equal(both.truth(3), val.truth(1))
    assert len(both) == 4


def test_frames_of_two_sizes_are_not_joined(dataset: Dataset, cache: Path) -> None:
    with pytest.raises(ValueError, match="cannot join"):
        load_frames(dataset, "train", SIZE, cache).join(load_frames(dataset, "val", (8, 8), cache))


def test_class_frequencies_leave_out_unlabelled(dataset: Dataset, cache: Path) -> None:
    frames = load_frames(dataset, "train", SIZE, cache)
    labels = np.stack([frames.label(i) for i in range(len(frames))])
    expected = np.array([(labels == c).sum() for c in range(11)]) / (labels != IGNORED).sum()
    assert np.allclose(frames.class_frequencies(), expected)


def test_second_load_decodes_nothing(dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_frames(dataset, "train", SIZE, cache)
    monkeypatch.setattr(frame_cache, "read_pixels", lambda *_: pytest.fail("decoded again"))
    second = load_frames(dataset, "train", SIZE, cache)
    assert np.array_equal(first.image(3), second.image(3))


@pytest.mark.parametrize("file", ["images.npy", "labels.npy", "counts.npy", "truth.npy", "stamp.json"])
@pytest.mark.parametrize("damage", ["truncated", "foreign", "missing", "flipped"])
def test_damaged_cache_is_built_again(
    dataset: Dataset, cache: Path, file: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_frames(dataset, "train", SIZE, cache)
    before = [(first.image(i).copy(), first.label(i).copy(), first.truth(i).copy()) for i in range(len(first))]
    damaged = list(cache.glob(f"frames/*/{file}"))
    assert damaged
    for path in damaged:
        if damage == "missing":
            path.unlink()
        elif damage == "flipped":
            path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
        else:
            path.write_bytes(path.read_bytes()[:-5] if damage == "truncated" else b'{"a": 1}')
    decoded = []
    for name in ("read_pixels", "read_labels"):
        read = getattr(frame_cache, name)
        monkeypatch.setattr(frame_cache, name, lambda kind, path, read=read: decoded.append(path) or read(kind, path))
    frames = load_frames(dataset, "train", SIZE, cache)
    assert decoded
    for i, (image, label, truth) in enumerate(before):
        assert np.array_equal(frames.image(i), image)
        assert np.array_equal(frames.label(i), label)
        assert np.array_equal(frames.truth(i), truth)


def test_arrays_are_summed_once_a_start_of_the_machine(
    dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_frames(dataset, "train", SIZE, cache)
    summed = []
    read = disk_cache._sum
    monkeypatch.setattr(disk_cache, "_sum", lambda path: summed.append(path.name) or read(path))
    load_frames(dataset, "train", SIZE, cache)
    assert not summed, "whoever has built them has told so"
    monkeypatch.setattr(disk_cache, "_intact", {})  # as in another process
    load_frames(dataset, "train", SIZE, cache)
    assert not summed
    monkeypatch.setattr(disk_cache, "_started", lambda: "another start")
    for _ in range(2):
        load_frames(dataset, "train", SIZE, cache)
    assert sorted(summed) == ["counts.npy", "images.npy", "labels.npy", "truth.npy"]


def test_a_cache_that_is_another_users_is_summed_once_a_process_and_used(
    dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    load_frames(dataset, "train", SIZE, cache)
    for path in cache.glob("frames/*/intact.json"):
        path.unlink()
    monkeypatch.setattr(disk_cache, "_intact", {})
    monkeypatch.setattr(disk_cache, "write_bytes", refuse)
    monkeypatch.setattr(frame_cache, "read_pixels", lambda *_: pytest.fail("decoded again"))
    assert len(load_frames(dataset, "train", SIZE, cache)) == 5
    monkeypatch.setattr(disk_cache, "_sum", lambda _: pytest.fail("summed again"))
    assert len(load_frames(dataset, "train", SIZE, cache)) == 5


def test_cache_is_built_once_by_many_at_a_time(dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    read = frame_cache.read_pixels
    monkeypatch.setattr(frame_cache, "read_pixels", lambda kind, path: decoded.append(path) or read(kind, path))
    threads = [threading.Thread(target=load_frames, args=(dataset, "train", SIZE, cache)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 5


def test_photo_that_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("hello")
    for name, message in (("notes.png", "neither a PNG nor a JPEG"), ("nothing.png", "No such file")):
        with pytest.raises(DataError, match=message):
            read_image(tmp_path / name)


def entries(cache: Path) -> set[str]:
    return {path.name.rpartition("-")[2] for path in (cache / "frames").iterdir() if path.is_dir()}


WORKING = 5 * 4 * 4 * 4
"""Bytes of the five training frames at SIZE."""
COUNTS = 5 * 11 * 4
"""Bytes of how many pixels of each class they have."""


def test_what_was_unused_for_longest_makes_room(dataset: Dataset, cache: Path) -> None:
    for age, side in ((300, 4), (100, 8), (200, 12)):
        load_frames(dataset, "train", (side, 4), cache)
        (stamp,) = (cache / "frames").glob(f"*-train-*-{side}x4/stamp.json")
        os.utime(stamp, (time.time() - age,) * 2)
    kept = load_frames(dataset, "train", (4, 4), cache)  # so that 12x4 is the one unused for longest
    held = sum(path.stat().st_size for path in (cache / "frames").rglob("*") if path.is_file())
    load_frames(dataset, "train", (16, 4), cache, limit=held + 16 * WORKING // 4 + COUNTS - 1)
    assert entries(cache) == {"truth", "4x4", "8x4", "16x4"}
    assert kept.image(0).shape == (4, 4, 3)


def test_frames_that_were_mapped_outlive_their_files(dataset: Dataset, cache: Path) -> None:
    mapped = load_frames(dataset, "train", (4, 4), cache)
    before = np.array(mapped.image(1))
    truth = sum(path.stat().st_size for path in (cache / "frames").glob("*-truth/*"))
    load_frames(dataset, "train", (8, 4), cache, limit=truth + 2 * WORKING + COUNTS)
    assert entries(cache) == {"truth", "8x4"}
    assert np.array_equal(mapped.image(1), before)


def test_what_is_needed_together_never_makes_room_for_itself(dataset: Dataset, cache: Path) -> None:
    load_frames(dataset, "train", SIZE, cache)
    with pytest.raises(ConfigError, match=r"must fit the cache.*--cache-limit is .*; raise it, or lower --size"):
        load_frames(dataset, "val", SIZE, cache, limit=100)
    assert entries(cache) == {"truth", "4x4"}


def test_frames_that_do_not_fit_the_disk_are_refused(
    dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(cache)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(ConfigError, match=r"must fit the disk.*choose another --cache"):
        load_frames(dataset, "train", SIZE, cache)


def test_what_was_unused_for_longest_makes_room_on_a_full_disk_too(
    dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held() -> int:
        return sum(path.stat().st_size for path in (cache / "frames").rglob("*") if path.is_file())

    for age, side in ((300, 4), (100, 8)):
        load_frames(dataset, "train", (side, 4), cache)
        (stamp,) = (cache / "frames").glob(f"*-train-*-{side}x4/stamp.json")
        os.utime(stamp, (time.time() - age,) * 2)
    disk, usage = held() + 10, shutil.disk_usage(cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=disk - held()))
    load_frames(dataset, "train", (3, 4), cache)
    assert entries(cache) == {"truth", "8x4", "3x4"}


def test_what_a_dead_builder_left_goes_with_the_next_build(dataset: Dataset, cache: Path) -> None:
    load_frames(dataset, "train", SIZE, cache)
    (entry,) = (cache / "frames").glob("*-train-*-4x4")
    left = entry.with_name(f".partial-0123-{entry.name}")
    left.mkdir()
    (left / "images.npy").write_bytes(b"half")
    (entry / "labels.npy").unlink()
    other = entry.with_name(f".partial-4567-{entry.name}8")  # of another size
    other.mkdir()
    building = entry.with_name(f".partial-89ab-{entry.name}16")
    building.mkdir()
    with FileLock(entry.with_name(f"{entry.name}16.lock")):
        load_frames(dataset, "train", SIZE, cache)
    assert not left.exists() and not other.exists() and building.exists()
