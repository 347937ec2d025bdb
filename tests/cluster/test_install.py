"""install.sh by itself, with Python played by a stub."""

import os
import subprocess
from pathlib import Path

from cluster_files import ROOT


def test_of_two_wheels_the_newest_is_installed(tmp_path: Path) -> None:
    home, tools = tmp_path / "home", tmp_path / "venv" / "bin"
    for made in (home / ".ray", tools):
        made.mkdir(parents=True)
    (home / ".ray" / "auth_token").touch()
    (tmp_path / "constraints.txt").write_text("ray==2.60.0\n")
    for age, version in ((0, "0.10.0"), (100, "0.9.0"), (200, "0.11.0")):
        wheel = tmp_path / f"ensemble_tune-{version}-py3-none-any.whl"
        wheel.write_text(version)
        os.utime(wheel, (2e9 - age, 2e9 - age))
    (tools / "python").write_text(f'#!/bin/bash\necho "$*" >> {tmp_path}/asked\n')
    (tools / "python").chmod(0o755)
    (tools / "python3.11").symlink_to(tools / "python")
    script = tmp_path / "install.sh"
    script.write_text((ROOT / "cluster" / "install.sh").read_text())
    environment = {"HOME": str(home), "PATH": f"{tools}:{os.environ['PATH']}"}
    for _ in range(2):
        subprocess.run(["bash", script, "aws"], env=environment, check=True)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == 2, "a second call changes nothing"
    assert asked[0].endswith("--constraint constraints.txt ./ensemble_tune-0.10.0-py3-none-any.whl[aws]")
    assert asked[1].endswith("--force-reinstall ./ensemble_tune-0.10.0-py3-none-any.whl")
