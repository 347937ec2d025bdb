from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_frames import write_frame

from ensemble_tune.ensemble.dataset import Dataset, open_dataset
from ensemble_tune.ensemble.dataset_spec import DatasetSpec
from ensemble_tune.ensemble.pool import Pool, draw, read_list
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.errors import ConfigError, DataError

PATIENTS = {f"p{number}": 2 + number % 4 for number in range(12)}
HEAD = f"""
classes = {[str(label) for label in range(11)]}
ignored = 11
"""
GROUPED = "sequence = '(?P<sequence>p[0-9]+)_.*'\n"
ALONE = 'groups = "none"\n'
POOL = '[splits]\nimages = "all"\nmasks = "allannot"\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Some 40 frames of 12 patients, in one folder."""
    for patient, count in PATIENTS.items():
        for index in range(count):
            write_frame(tmp_path / "data", "all", f"{patient}_{index}", size=(4, 4))
    return tmp_path / "data"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def opened(root: Path, cache: Path, text: str) -> Dataset:
    (root / "dataset.toml").write_text(HEAD + text)
    return open_dataset(root, cache)


def names(dataset: Dataset) -> dict[str, list[str]]:
    return {split: [frame.name for frame in frames] for split, frames in dataset.splits.items()}


def groups(dataset: Dataset) -> dict[str, set[str]]:
    return {split: {frame.sequence for frame in frames} for split, frames in dataset.splits.items()}


def write_lists(root: Path, **lists: list[str]) -> str:
    (root / "lists").mkdir(exist_ok=True)
    for split, lines in lists.items():
        (root / "lists" / f"{split}.txt").write_text("\n".join(lines))
    return "".join(f'{split} = "lists/{split}.txt"\n' for split in lists)


def refused(root: Path, cache: Path, text: str) -> str:
    with pytest.raises(DataError) as caught:
        opened(root, cache, text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@given(
    sizes=st.lists(st.integers(1, 30), min_size=3, max_size=25),
    val=st.floats(0.01, 0.49),
    test=st.floats(0.01, 0.49),
    seed=st.integers(0, 99),
)
def test_a_group_is_in_one_split_and_every_split_has_one(sizes: list[int], val: float, test: float, seed: int) -> None:
    of = [f"g{group}" for group, size in enumerate(sizes) for _ in range(size)]
    drawn = draw(of, {"val": val, "test": test}, seed)
    assert sorted(row for rows in drawn.values() for row in rows) == list(range(len(of)))
    held = [{of[row] for row in rows} for rows in drawn.values()]
    assert all(held) and sum(map(len, held)) == len(sizes)


def test_shares_are_met_by_frames_that_stand_alone_and_a_seed_draws_other_lots() -> None:
    of = [f"f{row}" for row in range(100)]
    drawn = draw(of, {"val": 0.25, "test": 0.1}, 0)
    assert {split: len(rows) for split, rows in drawn.items()} == {"train": 65, "test": 10, "val": 25}
    assert draw(of, {"val": 0.25, "test": 0.1}, 1) != drawn
    assert draw(of, {"val": 0.5, "test": 0.1}, 0)["test"] == drawn["test"]


def test_lots_do_not_depend_on_the_order_of_frames() -> None:
    of = [f"g{row % 9}" for row in range(40)]
    drawn, backwards = (draw(each, {"val": 0.2}, 3) for each in (of, of[::-1]))
    for split in drawn:
        assert {of[row] for row in drawn[split]} == {of[::-1][row] for row in backwards[split]}


def test_groups_are_drawn_whole(root: Path, cache: Path) -> None:
    dataset = opened(root, cache, f'{GROUPED}{POOL}by = "group"\nval = 0.2\ntest = 0.25\nseed = 3\n')
    held = groups(dataset)
    assert sum(len(each) for each in held.values()) == len(PATIENTS)
    total = sum(PATIENTS.values())
    for split, share in (("val", 0.2), ("test", 0.25)):
        assert abs(len(dataset.splits[split]) / total - share) < 0.07
    assert (
        opened(root, cache, f'{GROUPED}{POOL}by = "group"\nval = 0.2\ntest = 0.25\nseed = 4\n').digest != dataset.digest
    )


def test_folds_keep_groups_whole_too_and_blocks_are_refused(root: Path, cache: Path) -> None:
    dataset = opened(root, cache, f'{GROUPED}{POOL}by = "group"\n')
    data = StageData(data=str(root), cache=cache)
    frames = data.training((32, 32))
    pairs = set(zip(frames.sequences, data.fold_of(frames).tolist(), strict=True))
    assert len(pairs) == len(set(frames.sequences)) and {fold for _, fold in pairs} == {1, 2, 3}
    with pytest.raises(
        ConfigError, match=r'blocks would cut the groups of .*; use --split official, or set groups = "bl'
    ):
        dataset.in_blocks()
    cut = opened(root, cache, f'groups = "blocks"\n{GROUPED}{POOL}by = "group"\n')
    assert groups(cut) == groups(dataset) and cut.in_blocks().digest != cut.digest != dataset.digest


def test_frames_that_stand_alone_are_drawn_one_by_one(root: Path, cache: Path) -> None:
    dataset = opened(root, cache, f'{ALONE}{POOL}by = "random"\nval = 0.25\ntest = 0.1\n')
    total = sum(PATIENTS.values())
    found = {split: len(frames) for split, frames in dataset.splits.items()}
    assert found == {
        "train": total - round(total / 4) - round(total / 10),
        "val": round(total / 4),
        "test": round(total / 10),
    }


def test_without_a_share_a_fifth_is_val(root: Path, cache: Path) -> None:
    dataset = opened(root, cache, f'{ALONE}{POOL}by = "random"\n')
    assert len(dataset.splits["val"]) == round(sum(PATIENTS.values()) / 5) and not dataset.has_test


def test_lists_name_the_frames_of_each_split(root: Path, cache: Path) -> None:
    lists = write_lists(
        root, train=["p1_0", "# p3_0", "", "all/p2_1.png", "p1_2.PNG"], val=["p0_1 "], test=["C:\\x\\p3_0"]
    )
    dataset = opened(root, cache, GROUPED + POOL + lists)
    assert names(dataset) == {"train": ["p1_0", "p1_2", "p2_1"], "val": ["p0_1"], "test": ["p3_0"]}


def test_frames_that_no_list_names_need_no_mask(root: Path, cache: Path) -> None:
    lists = write_lists(root, train=["p1_0", "p1_1"], val=["p0_1"])
    (root / "allannot" / "p2_0.png").unlink()
    (root / "all" / "p2_1.png").unlink()
    assert names(opened(root, cache, GROUPED + POOL + lists))["val"] == ["p0_1"]


def test_a_frame_that_moves_to_another_list_makes_another_data_set(root: Path, cache: Path) -> None:
    text = GROUPED + 'groups = "blocks"\n' + POOL
    before = opened(root, cache, text + write_lists(root, train=["p1_0", "p1_1", "p1_2"], val=["p2_0"]))
    after = opened(root, cache, text + write_lists(root, train=["p1_0", "p1_1"], val=["p1_2", "p2_0"]))
    assert after.digest != before.digest
    assert (
        opened(root, cache, text + write_lists(root, train=["p1_0", "p1_1", "p1_2"], val=["p2_0"])).digest
        == before.digest
    )


def test_without_a_list_for_val_whole_groups_are_held_out(root: Path, cache: Path) -> None:
    everyone = [f"{patient}_{index}" for patient, count in PATIENTS.items() for index in range(count)]
    dataset = opened(root, cache, GROUPED + POOL + write_lists(root, train=everyone))
    held = groups(dataset)
    assert held["train"].isdisjoint(held["val"]) and len(held["train"] | held["val"]) == len(PATIENTS)


def test_lists_that_divide_a_group_are_refused_unless_it_may_be_cut(root: Path, cache: Path) -> None:
    text = POOL + write_lists(root, train=["p1_0", "p2_0"], val=["p1_1"], test=["p2_1"])
    message = refused(root, cache, GROUPED + text)
    assert 'a group must stand in one split only; groups = "blocks" in ' in message
    assert message.endswith("2 break this: p1 (train and val), p2 (train and test)")
    assert names(opened(root, cache, f'groups = "blocks"\n{GROUPED}{text}'))["val"] == ["p1_1"]


def test_folders_that_divide_a_group_are_refused_where_groups_are_whole(root: Path, cache: Path) -> None:
    write_frame(root, "val", "p1_7", size=(4, 4))
    folders = '[splits]\ntrain = { images = "all", masks = "allannot" }\nval = { images = "val", masks = "valannot" }\n'
    assert len(opened(root, cache, GROUPED + folders).splits["val"]) == 1
    assert "p1 (train and val)" in refused(root, cache, f'groups = "whole"\n{GROUPED}{folders}')


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": ["p1_0", "x_0"]}, "every frame of a list needs an image in "),
        ({"train": ["p1_0"], "val": ["p1_0"]}, "must stand in one split only; 1 breaks this: p1_0 (train and val)"),
        ({"train": ["p1_0"], "val": ["# none"]}, "val is empty: "),
        ({"train": ["p1_0", "p1_0"]}, "train.txt must list a frame once; 1 breaks this: p1_0"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(
    root: Path, cache: Path, lists: dict[str, list[str]], message: str
) -> None:
    assert message in refused(root, cache, GROUPED + 'groups = "blocks"\n' + POOL + write_lists(root, **lists))


def test_a_list_that_is_not_there_or_no_text_is_refused(root: Path, cache: Path) -> None:
    text = f'{GROUPED}{POOL}train = "train.txt"\n'
    assert "cannot read the list" in refused(root, cache, text)
    (root / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="must be text in UTF-8"):
        read_list(root / "train.txt")


def test_too_few_groups_are_refused(root: Path, cache: Path) -> None:
    one = "sequence = '(?P<sequence>p).*'\n"
    message = refused(root, cache, f'{one}{POOL}by = "group"\n')
    assert "lots need a group for each of train and val, but there are 1 of 42 frames" in message


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"by": "group", "train": 0.5}, "splits.train is what val and test leave"),
        ({"by": "groups"}, "splits.by cannot be 'groups'; did you mean 'group'?"),
        ({"by": "group", "val": 0}, "splits.val must be a share of the frames above 0 and below 1, but got 0"),
        ({"by": "group", "val": True}, "splits.val must be a share"),
        ({"by": "group", "val": 0.5, "test": 0.5}, "must leave some frames for train, but sum to 1"),
        ({"by": "group", "seed": -1}, "splits.seed must be a whole number of at least 0"),
        ({"train": "train.txt", "seed": 1}, "splits.seed is for lots"),
        ({"val": 0.2}, "splits needs train ="),
        ({"train": "train.csv"}, "splits.train must name a list of frames, a .txt file, but got 'train.csv'"),
        ({"train": "train.txt", "vall": "val.txt"}, "splits has no key 'vall'; did you mean 'val'?"),
        ({"train": "train.txt", "masks": None}, "splits.masks must name the folder of all masks"),
    ],
)
def test_a_mistake_in_splits_is_named(splits: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        Pool.read({"images": "all", "masks": "allannot", **splits})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("groups", "by", "message"),
    [
        (GROUPED, "random", 'by = "random" would divide the frames of a sequence, which look alike'),
        (ALONE, "group", 'by = "group" needs sequence, which reads a group off'),
    ],
)
def test_lots_fit_the_groups(tmp_path: Path, groups: str, by: str, message: str) -> None:
    (tmp_path / "dataset.toml").write_text(f'{HEAD}{groups}{POOL}by = "{by}"\n')
    with pytest.raises(DataError) as caught:
        DatasetSpec.load(tmp_path)
    assert message in str(caught.value)
