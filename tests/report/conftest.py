import pytest
from searched_run import searched_run

from ensemble_tune.report.run_view import RunView


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    """A larger run, written by hand."""
    return RunView.of(searched_run(tmp_path_factory.mktemp("searched") / "run"))
