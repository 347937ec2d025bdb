import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import missing, traces
from ray_cluster import Cluster, on_hosts

# The plain trial that is killed here too.
sys.path.append(str(Path(__file__).parents[1] / "tune"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Ray on three SSH hosts, one for all tests of a file; skipped with the reason where no hosts can be made."""
    why = missing()
    if why:
        pytest.skip(why)
    with on_hosts(tmp_path_factory.mktemp("hosts")) as made:
        yield made
    assert traces(made.hosts.mark) == [], "nothing of the hosts is left"
