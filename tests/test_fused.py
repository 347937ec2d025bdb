from dataclasses import replace
from pathlib import Path

import pytest
from written_run import meta

from ensemble_tune.errors import RunError
from ensemble_tune.fused import check_fusions, fused_members


def test_bases_are_places_among_the_members() -> None:
    members = "base-0004,base-0001,base-0007"
    for bases, expected in (("all", [4, 1, 7]), ("1", [4]), ("1+3", [4, 7])):
        record = meta(0, 0.5, "linear", bases, members=members)
        assert fused_members(record) == [f"base-{number:04d}" for number in expected]


@pytest.mark.parametrize("lacks", ["4", "0", "1+x", "", "-1", "kind", "members"])
def test_fusions_that_do_not_say_what_they_fuse_are_refused_by_their_ledger(tmp_path: Path, lacks: str) -> None:
    whole = meta(0, 0.5, "linear", "1+3", members="base-0004,base-0001,base-0007")
    check_fusions([whole], tmp_path)
    params = {name: value for name, value in whole.params.items() if name != lacks}
    wrong = replace(whole, params=params if lacks in whole.params else {**params, "bases": lacks})
    with pytest.raises(RunError) as error:
        check_fusions([whole, wrong], tmp_path)
    assert f"meta-0000 in {tmp_path} has no '{lacks.rpartition('+')[2]}'" in str(error.value)
