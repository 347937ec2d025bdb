from pathlib import Path

import pytest

from ensemble_tune.ensemble.dataset_spec import DatasetSpec
from ensemble_tune.ensemble.frame_files import find_frames
from ensemble_tune.errors import DataError

GOOD = """
name = "roads"
classes = ["road", "car", "sign"]
ignored = 255
small = ["sign"]
sequence = "(?P<sequence>[a-z]+)-.*"
[splits]
train = { images = "a/images", masks = "a/labels" }
test = { images = "b/images", masks = "b/labels" }
"""


def load(folder: Path, text: str) -> DatasetSpec:
    (folder / "dataset.toml").write_text(text)
    return DatasetSpec.load(folder)


def test_without_a_file_it_is_camvid(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    spec = DatasetSpec.load(tmp_path)
    assert spec.classes[0] == "sky" and spec.classes[10] == "bicyclist"
    assert spec.ignored == 11
    assert spec.small == ("pole", "signsymbol", "pedestrian", "bicyclist")
    assert spec.splits == {"train": ("train", "trainannot"), "val": ("val", "valannot")}


@pytest.mark.parametrize(
    ("name", "sequence"), [("0001TP_006690", "0001TP"), ("0006R0_f00930", "0006R0"), ("0016E5_00390", "0016E5")]
)
def test_camvid_names_give_their_sequence(tmp_path: Path, name: str, sequence: str) -> None:
    assert DatasetSpec.load(tmp_path).sequence_of(name) == sequence


def test_file_is_read(tmp_path: Path) -> None:
    spec = load(tmp_path, GOOD)
    assert spec.name == "roads"
    assert spec.splits == {"train": ("a/images", "a/labels"), "test": ("b/images", "b/labels")}
    assert spec.sequence_of("berlin-07") == "berlin"
    assert spec.sequence_of("7") is None


def test_independent_frames_are_their_own_sequence(tmp_path: Path) -> None:
    assert load(tmp_path, 'classes = ["a", "b"]\ngroups = "none"').sequence_of("x_1") == "x_1"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ignored", "ignore", "did you mean 'ignored'?"),
        ("255", "2", "ignored must be a label within 3..255"),
        ("255", "true", "ignored must be a label"),
        ("255", '"void"', "ignored must be a label"),
        ('["sign"]', '["sing"]', "did you mean 'sign'?"),
        ('"road", "car"', '"car", "car"', "different names"),
        ('"road", "car"', '"road", 7', "list of class names"),
        ("test =", "tests =", "did you mean 'test'?"),
        ("train =", "val =", "no train"),
        ('masks = "a/labels"', 'mask = "a/labels"', "splits.train must be"),
        ("(?P<sequence>", "(", "must have a group"),
        ("[a-z]+)", "[a-z]+", "no regular expression"),
        ("[a-z]+)", "(?R))", "no regular expression"),
        ("[a-z]+)", "(?:[a-z]{200}){200})", "must multiply to 10000 at most"),
        ("sequence =", "groups =", "groups cannot be '(?P<sequence>[a-z]+)-.*'; valid: blocks, none, whole"),
        ("ignored = 255", 'groups = "hole"', "groups cannot be 'hole'; did you mean 'whole'?"),
        ("train = {", "val = 0.2\ntrain = {", "splits.images must name the folder of all images, but got None"),
        ('small = ["sign"]', 'groups = "none"', "either sequence"),
        ("[splits]", "[splits", "cannot read"),
        ("classes", "labels", "no key is called 'labels'"),
        ("ignored = 255", "mask_suffix = 1", "mask_suffix must be text such as _L"),
        ("ignored = 255", 'palette = "binary"', "needs two classes, but there are 3"),
    ],
)
def test_mistake_is_named_in_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(DataError) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert message in str(caught.value)
    assert "dataset.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, GOOD.replace("ignored", "ignore").replace("name", "title").replace('["sign"]', "3"))
    for message in ("'ignore'", "'title'", "small must be a list of class names, but got 3"):
        assert message in str(caught.value)
    with pytest.raises(DataError) as caught:
        load(tmp_path, GOOD.replace("255", "2").replace('["sign"]', '["sing"]').replace("test =", "tests ="))
    for message in ("ignored must be a label within 3..255", "did you mean 'sign'?", "did you mean 'test'?"):
        assert message in str(caught.value)


def test_what_a_plain_data_set_means_is_said_as_it_always_was(tmp_path: Path) -> None:
    """Digests are made of it, and runs and caches of older versions are of those."""
    found = load(tmp_path, GOOD).to_json()
    assert found == {
        "classes": ("road", "car", "sign"),
        "ignored": 255,
        "small": ("sign",),
        "splits": {"train": ("a/images", "a/labels"), "test": ("b/images", "b/labels")},
        "sequence": "(?P<sequence>[a-z]+)-.*",
    }


@pytest.mark.parametrize("pattern", [r"(?P<sequence>([a-z0-9_]+)+)!", r"(?P<sequence>(\w+_?)*)-\d+"])
def test_a_repeat_inside_a_repeat_ends_where_no_name_fits(tmp_path: Path, pattern: str) -> None:
    spec = load(tmp_path, f"classes = ['a', 'b']\nsequence = '{pattern}'")
    assert spec.sequence_of("a" * 28) is None, "Python's own regular expressions try for hours"


def test_a_pattern_that_does_not_end_is_stopped_and_told_with_the_name(tmp_path: Path) -> None:
    spec = load(tmp_path, """classes = ["a", "b"]\nsequence = "(?P<sequence>(a|aa|aaa)+)!" """)
    name = "a" * 60
    with pytest.raises(DataError, match=rf"must be matched within a second, but .* takes longer on '{name}'; write it"):
        spec.sequence_of(name)
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.png").touch()
    assert "must be matched within a second" in str(find_frames(tmp_path, spec)[1]), "beside the other faults"


def test_classes_are_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="classes is missing"):
        load(tmp_path, 'groups = "none"')
