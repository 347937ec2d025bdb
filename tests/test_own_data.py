"""docs/own-data.md shows an example of each kind; that each is understood stands in test_readme.py."""

import re
from pathlib import Path

from ensemble_tune.ensemble.dataset_spec import DatasetSpec

DOCS = Path(__file__).parents[1] / "docs" / "own-data.md"
EXAMPLES = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


def test_there_is_an_example_of_each_kind(tmp_path: Path) -> None:
    specs = []
    for number, text in enumerate(EXAMPLES):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "dataset.toml").write_text(text)
        specs.append(DatasetSpec.load(tmp_path / str(number)))
    pools = [spec.pool for spec in specs if spec.pool is not None]
    assert any(pool.lists for pool in pools) and any(
        pool.by == "group" and pool.shares["test"] == 0.1 for pool in pools
    )
    assert sum(spec.palette is not None for spec in specs) == 2
    assert any(not spec.images.plain and spec.images.measured for spec in specs)
    assert any(spec.tiles is not None and spec.tiles.overlap == 64 for spec in specs)
