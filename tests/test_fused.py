import pytest
from written_run import meta

from ensemble_tune.errors import RunError
from ensemble_tune.fused import fused_members


def test_bases_are_places_among_the_members() -> None:
    members = "base-0004,base-0001,base-0007"
    for bases, expected in (("all", [4, 1, 7]), ("1", [4]), ("1+3", [4, 7])):
        record = meta(0, 0.5, "linear", bases, members=members)
        assert fused_members(record) == [f"base-{number:04d}" for number in expected]


@pytest.mark.parametrize("bases", ["4", "0", "1+x", "", "-1"])
def test_places_that_no_member_has_are_refused(bases: str) -> None:
    record = meta(0, 0.5, "linear", bases, members="base-0004,base-0001,base-0007")
    with pytest.raises(RunError, match=r"places of 1 to 3, .* but meta-0000 has .* in the ledger; restore it"):
        fused_members(record)
