import shutil
from pathlib import Path

import pytest
from tiny_run import Finished

from ensemble_tune.comparison import measured
from ensemble_tune.ensemble.image_file import read_mask
from ensemble_tune.errors import RunError
from ensemble_tune.final_folder import FinalFolder


@pytest.fixture
def final(finished: Finished, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.out / "final", tmp_path / "final"))


def test_a_final_training_is_read_with_the_evidence_behind_its_scores(final: Path) -> None:
    found = FinalFolder.read(final)
    assert found is not None and found.split == "test" and len(found.manifest.bases) >= 1
    assert measured(found.evidence["ensemble"]).miou == pytest.approx(found.scores["miou"])
    assert found.evidence["ensemble"].names == ("d_000", "d_001", "d_002", "d_003")
    for name in set(found.evidence) - {"ensemble"}:
        assert measured(found.evidence[name]).miou == pytest.approx(found.scores[f"{name}.miou"])
    assert (found.mask("d_000") == read_mask(final / "masks" / "d_000.png")).all()


def test_evidence_of_another_training_is_not_taken_for_this_one_s(final: Path) -> None:
    text = (final / "metrics.json").read_text()
    (final / "metrics.json").write_text(text.replace('"miou": 0.', '"miou": 0.9', 1))
    found = FinalFolder.read(final)
    assert found is not None and not found.evidence
    shutil.rmtree(final / "evidence")
    assert FinalFolder.read(final) is not None, "written by an earlier version"


def test_a_single_model_has_no_evidence_of_members_that_another_training_left(final: Path) -> None:
    shutil.copytree(final / "evidence" / "ensemble", final / "evidence" / "member-7")
    found = FinalFolder.read(final)
    assert found is not None and "ensemble" in found.evidence and "member-7" not in found.evidence


def test_no_training_is_none_and_a_damaged_one_is_named(final: Path, tmp_path: Path) -> None:
    assert FinalFolder.read(tmp_path / "nowhere") is None
    for text in ("", "[]", '{"split": "test"}', '{"split": "test", "scores": {"miou": "high"}}'):
        (final / "metrics.json").write_text(text)
        with pytest.raises(RunError, match=r"metrics\.json is damaged; remove it"):
            FinalFolder.read(final)
