import sys
from pathlib import Path

import cv2
import pytest
from tiles import write_tile_frame, write_tiles

from ensemble_tune import cli


def check(
    data: object, sheet: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Status, standard output and standard error of `data check`."""
    monkeypatch.setattr(sys, "argv", ["ensemble-tune", "data", "check", str(data), "--sheet", str(sheet)])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0), *capfd.readouterr()


def test_a_sound_data_set_is_described_and_drawn(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, err = check(tiles, tmp_path / "sheet.png", monkeypatch, capfd)
    assert (status, err) == (0, "")
    assert "tiles: 3 classes, 255 where a pixel is unlabelled" in out
    assert any(line.split()[:6] == ["train", "12", "2:", "a", "(6),", "b"] for line in out.splitlines())
    assert "64x64" in out and "3.1%" in out
    (row,) = [line.split() for line in out.splitlines() if line.startswith("pole")]
    assert row[2::2] == ["12", "4", "4"] and 20 < float(row[1]) < 50
    assert out.endswith(f"{tiles} keeps to every rule\n")
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None


def test_faults_are_all_listed_and_the_status_is_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = write_tiles(tmp_path / "tiles")
    for index in range(6):
        (root / "trainannot" / f"a_{index:03d}.png").unlink()
    write_tile_frame(root, "test", "d_001", label=7)
    status, out, err = check(root, tmp_path / "sheet.png", monkeypatch, capfd)
    assert status == 2
    lines = err.splitlines()
    assert lines[0].startswith("- every image in ") and lines[1:7] == [f"    a_{index:03d}" for index in range(6)]
    assert lines[7:9] == ["- labels must be 0..2, or 255 for unlabelled", "    d_001 (7)"]
    assert lines[9] == f"error: {root} breaks 2 rules; mend it, then check it again"
    assert len(lines) == 10 and "train" in out


def test_what_is_no_data_set_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for data, why in (
        (tmp_path / "nothing", "error: no folder is at "),
        ("synthetic:x", "error: the seed of synthetic"),
    ):
        status, out, err = check(data, tmp_path / "sheet.png", monkeypatch, capfd)
        assert (status, out) == (2, "") and err.startswith(why) and err.count("\n") == 1
    assert not (tmp_path / "sheet.png").exists()


def test_a_sheet_that_no_picture_can_be_is_refused_before_anything_is_read(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("sheet.pdf", "sheet"):
        status, out, err = check(tiles, tmp_path / name, monkeypatch, capfd)
        assert (status, out) == (2, "") and err.count("\n") == 1
        assert err.startswith("error: --sheet must be a file that ends in .png or .jpg or .jpeg, but got ")
    assert check(tiles, tmp_path / "sheet.JPG", monkeypatch, capfd)[0] == 0


def test_faults_are_named_where_no_sheet_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = write_tiles(tmp_path / "tiles")
    write_tile_frame(root, "test", "d_001", label=7)
    (tmp_path / "sheet.png").mkdir()
    status, _, err = check(root, tmp_path / "sheet.png", monkeypatch, capfd)
    lines = err.splitlines()
    assert (status, lines[:2]) == (2, ["- labels must be 0..2, or 255 for unlabelled", "    d_001 (7)"])
    assert len(lines) == 3 and lines[2].startswith(f"error: {tmp_path / 'sheet.png'} must be written, but that failed")
