import json
from pathlib import Path

import numpy as np
import pytest

from ensemble_tune.ensemble.evidence import Evidence
from ensemble_tune.errors import RunError


def evidence(*names: str, of: str = "model", seed: int = 0) -> Evidence:
    chance = np.random.default_rng(seed)
    return Evidence(
        of=of,
        classes=("sky", "road", "pole"),
        small=("pole",),
        names=names,
        sequences=tuple(name[0] for name in names),
        confusions=chance.integers(0, 100, (len(names), 3, 3)),
        calibration=np.array([[10.0, 4.0, 3.0], [30.0, 24.0, 27.0]]),
    )


def test_saved_evidence_comes_back(tmp_path: Path) -> None:
    own = evidence("a1", "a2", "b1")
    own.save(tmp_path / "saved")
    back = Evidence.open(tmp_path / "saved", "model")
    assert (back.of, back.names, back.sequences, back.classes, back.small) == (
        own.of,
        own.names,
        own.sequences,
        own.classes,
        own.small,
    )
    assert np.array_equal(back.confusions, own.confusions) and np.array_equal(back.calibration, own.calibration)
    assert Evidence.has(tmp_path / "saved", "model") and not Evidence.has(tmp_path / "saved", "another")
    assert not Evidence.has(tmp_path / "nowhere", "model")
    assert Evidence.open(tmp_path / "saved").of == "model", "whatever is there"


@pytest.mark.parametrize("name", ["confusions.npy", "calibration.npy", "frames.json"])
@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"[]"])
def test_damaged_evidence_is_named(tmp_path: Path, name: str, damage: bytes) -> None:
    evidence("a1").save(tmp_path / "saved")
    (tmp_path / "saved" / name).write_bytes(damage)
    with pytest.raises(RunError, match=f"evidence in {tmp_path / 'saved'} is (damaged|of something else); remove"):
        Evidence.open(tmp_path / "saved", "model")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sequences": ["a", "a", "a"]}, "its lists do not fit each other"),
        ({"small": ["crane"]}, "its lists do not fit each other"),
        ({"names": ["a1"]}, "its lists do not fit each other"),
        ({"names": ["a1"], "sequences": ["a"]}, "it must be int64 of (1, 3, 3), but is int64 of (2, 3, 3)"),
        ({"classes": ["sky", "pole"]}, "it must be int64 of (2, 2, 2), but is int64 of (2, 3, 3)"),
        ({"of": None}, "of must hold text, but has None"),
        ({"names": "ab"}, "names must be a list, but is 'ab'"),
    ],
)
def test_lists_that_do_not_fit_each_other_or_the_counts_are_refused(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    evidence("a1", "a2").save(tmp_path / "saved")
    path = tmp_path / "saved" / "frames.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RunError, match=r"saved is damaged; remove the folder to measure it again$") as error:
        Evidence.open(tmp_path / "saved")
    assert said in str(error.value.__cause__)


@pytest.mark.parametrize("name", ["confusions.npy", "calibration.npy"])
def test_something_behind_an_array_is_refused(tmp_path: Path, name: str) -> None:
    evidence("a1", "a2").save(tmp_path / "saved")
    with (tmp_path / "saved" / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(RunError, match=r"saved is damaged") as error:
        Evidence.open(tmp_path / "saved")
    assert "something behind its end" in str(error.value.__cause__)


def test_code_in_an_array_is_not_run(tmp_path: Path) -> None:
    evidence("a1").save(tmp_path / "saved")
    np.save(tmp_path / "saved" / "confusions.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(RunError, match="damaged"):
        Evidence.open(tmp_path / "saved", "model")


def test_parts_join_to_a_whole() -> None:
    whole = evidence("a1", "a2").join(evidence("b1", seed=1))
    assert whole.names == ("a1", "a2", "b1") and len(whole.confusions) == 3
    assert whole.calibration.tolist() == [[20.0, 8.0, 6.0], [60.0, 48.0, 54.0]]
    with pytest.raises(ValueError, match="different frames"):
        evidence("a1").join(evidence("a1"))


def test_frames_can_be_brought_into_another_order() -> None:
    own = evidence("a1", "a2", "b1")
    turned = own.sorted_as(["b1", "a1", "a2"])
    assert turned.sequences == ("b", "a", "a") and np.array_equal(turned.confusions[0], own.confusions[2])
    with pytest.raises(ValueError, match="same frames"):
        own.sorted_as(["a1", "a2"])


def test_the_calibration_error_weighs_bins_by_their_pixels() -> None:
    # |4 - 3| and |24 - 27| of 40 pixels.
    assert evidence("a1").calibration_error == pytest.approx(4 / 40)
