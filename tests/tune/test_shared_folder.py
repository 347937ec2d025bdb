import socket
from pathlib import Path

import pytest
import ray

from ensemble_tune.errors import ConfigError
from ensemble_tune.tune import shared_folder
from ensemble_tune.tune.resources import Machine
from ensemble_tune.tune.shared_folder import refuse_unshared


@pytest.fixture
def far(local_ray: str) -> Machine:
    """This machine under another name, so that it is asked as one that is far."""
    return Machine(ray.get_runtime_context().get_node_id(), {"CPU": 2.0}, host="far")


@pytest.mark.usefixtures("local_ray")
class TestOnLocalRay:
    def test_a_folder_that_all_see_will_do(self, tmp_path: Path, far: Machine) -> None:
        refuse_unshared(tmp_path / "run" / "checkpoints", [far])
        assert list((tmp_path / "run" / "checkpoints").iterdir()) == []

    def test_one_that_a_machine_does_not_see_is_refused_before_any_trial(
        self, tmp_path: Path, far: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        @ray.remote(num_cpus=0)
        def blind(path: str) -> bool:
            return False

        monkeypatch.setattr(shared_folder, "_sees", blind)
        with pytest.raises(ConfigError, match=r"all machines must see --out, but far does not see .*; give a folder"):
            refuse_unshared(tmp_path, [far])
        assert list(tmp_path.iterdir()) == []

    def test_a_machine_that_does_not_answer_is_believed(
        self, tmp_path: Path, far: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(shared_folder, "_SECONDS", 0.5)
        gone = Machine("0" * 56, {}, host="gone")
        refuse_unshared(tmp_path, [far, gone])
        assert any("does not say w" in message for message in caplog.messages)


def test_a_machine_alone_is_not_asked(tmp_path: Path) -> None:
    refuse_unshared(tmp_path / "run", [Machine("here", {}, host=socket.gethostname())])
    assert not (tmp_path / "run").exists()
