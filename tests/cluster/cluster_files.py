"""The shipped cluster files as a user leaves them: only the marked block is changed."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHIPPED = sorted([*(ROOT / "cluster").glob("*.yaml"), ROOT / "cluster" / "slurm.sh"])
BLOCK = re.compile(r"^ *# -+ edit from here \.\.\.\n(?P<block>.*?)^ *# \.\.\. to here\.", re.MULTILINE | re.DOTALL)

EDITS: dict[str, dict[str, object]] = {
    "aws.yaml": {
        "image": "ami-0123456789abcdef0",
        "ssh_from": "198.51.100.7/32",
        "bucket": "example-bucket",
        "security_group": "sg-0123456789abcdef0",
    },
    "gcp.yaml": {
        "project": "example",
        "image": "projects/example/global/images/ensemble-tune-20260101",
        "subnetwork": "projects/example/regions/us-west1/subnetworks/ensemble-tune",
        "ssh_from": "198.51.100.7/32",
        "head_account": "ensemble-tune-head@example.iam.gserviceaccount.com",
        "worker_account": "ensemble-tune-worker@example.iam.gserviceaccount.com",
    },
    "onpremises.yaml": {"head": "192.168.1.10", "workers": ["192.168.1.11", "192.168.1.12"], "ssh_user": "someone"},
    "kuberay.yaml": {"image": "registry.example/ensemble-tune:0.1.0", "shared": "shared", "operator": "kuberay"},
    "slurm.sh": {"shared": "/shared"},
}
"""What a user fills in, by file."""


def block_of(text: str) -> str:
    """The marked block; there is exactly one."""
    (found,) = BLOCK.finditer(text)
    return found["block"]


def edited(name: str, **values: object) -> str:
    """A shipped file with these settings of its block replaced, and not a letter outside it."""
    text = (ROOT / "cluster" / name).read_text()
    block = block_of(text)
    new = block
    for key, value in {**EDITS[name], **values}.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        if name.endswith(".sh"):
            new, count = re.subn(rf"^{key}=\S+", lambda match, s=shown, k=key: f"{k}={s}", new, flags=re.MULTILINE)
        else:
            pattern = rf"^( +{key}: (?:&\w+ )?)(?:[^#\n\"]|\"[^\"\n]*\")*"
            new, count = re.subn(pattern, lambda match, s=shown: f"{match[1]}{s} ", new, flags=re.MULTILINE)
        assert count == 1, f"{name} has no setting {key}"
    assert text.count(block) == 1
    return text.replace(block, new)


def prepare(folder: Path, name: str, **values: object) -> Path:
    """An edited file on disk, with what it mounts beside it: a token, a wheel, the constraints."""
    token, wheel = folder / "auth_token", folder / "ensemble_tune-0.1.0-py3-none-any.whl"
    if not token.exists():
        token.touch(mode=0o600)
        token.write_text("a" * 32)
    if not wheel.exists():
        wheel.touch()
    if name in ("aws.yaml", "gcp.yaml", "onpremises.yaml"):
        mounts: dict[str, object] = {"token": str(token), "wheel": str(wheel)}
        mounts |= {"constraints": str(ROOT / "constraints.txt"), "install": str(ROOT / "cluster" / "install.sh")}
        values = {**mounts, **values}
    path = folder / name
    path.write_text(edited(name, **values))
    return path
