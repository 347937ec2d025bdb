"""Completion as a shell asks for it: the installed command, and a bash of one's own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("ensemble-tune")

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


def _bash(home: Path, script: str) -> str:
    """What a bash with its own home, in which the command is on the path, prints."""
    path = f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(home), "PATH": path}
    # A second command, or bash would become the first one, and there would be no shell to find.
    words = ["bash", "--norc", "-c", f"{script}\ntrue"]
    ended = subprocess.run(words, env=environment, cwd=home, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stderr == ""
    return ended.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a user who has installed the completion."""
    home = tmp_path_factory.mktemp("home")
    told = _bash(home, "ensemble-tune --install-completion")
    assert told.startswith("bash completion installed in ")
    return home


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("se", ["search", "segment"]),
        ("search ", ["base", "meta"]),
        ("search base --trials 3 --sampler ", ["random", "tpe", "qmc", "gp", "grid"]),
        ("run --scheduler as", ["asha-promote", "asha"]),
        ("convert runs/final --format ", ["onnx", "smp"]),
        ("results --tri", ["--trial"]),
        ("results ", []),
    ],
)
def test_bash_completes_verbs_options_and_their_values(home: Path, typed: str, expected: list[str]) -> None:
    """Where nothing is expected, bash offers the files that are there."""
    words = f"ensemble-tune {typed}".split(" ")
    script = f"""
        source ~/.bashrc
        COMP_WORDS=({" ".join(word or "''" for word in words)})
        COMP_CWORD={len(words) - 1}
        $(complete -p ensemble-tune | sed 's/.*-F \\([^ ]*\\) .*/\\1/') ensemble-tune
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert sorted(_bash(home, script).split()) == sorted(expected)


def test_where_nothing_else_is_known_bash_completes_files(home: Path) -> None:
    assert " -o default " in _bash(home, "source ~/.bashrc; complete -p ensemble-tune")
