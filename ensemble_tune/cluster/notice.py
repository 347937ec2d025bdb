"""A machine's notice that it will be taken away: from AWS, from Google Cloud, or a file that somebody made."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ensemble_tune.errors import ConfigError

Source = Callable[[], "Notice | None"]
"""Asked every few seconds; the notice, or None while there is none."""

AWS_METADATA = "http://169.254.169.254"
GCP_METADATA = "http://169.254.169.254"
"""Both clouds answer a machine's questions about itself there, and nowhere else."""
_ASK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Notice:
    """The machine goes in so many seconds."""

    reason: str
    seconds: int


def source(kind: str) -> Source:
    """What to ask: "aws", "gcp", or the path of a file. Raises ConfigError for an empty one."""
    if kind == "aws":
        return lambda: aws_notice(AWS_METADATA)
    if kind == "gcp":
        return lambda: gcp_notice(GCP_METADATA)
    if not kind.strip():
        raise ConfigError("--notice must be aws, gcp or the path of a file, but is empty; try ~/ensemble_tune/leave")
    return lambda: file_notice(Path(kind).expanduser())


def aws_notice(address: str) -> Notice | None:
    """A spot interruption: EC2 tells two minutes before. Source: EC2's guide, Spot Instance interruption notices."""
    token = _ask(f"{address}/latest/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    if token is None:
        return None
    # 404 until there is a notice; then JSON with the action and its time.
    told = _ask(f"{address}/latest/meta-data/spot/instance-action", headers={"X-aws-ec2-metadata-token": token})
    return None if told is None else Notice("EC2 takes the spot instance back", 120)


def gcp_notice(address: str) -> Notice | None:
    """A preemption: Compute Engine tells half a minute before. Source: its guide, Spot VMs, Detect preemption."""
    told = _ask(f"{address}/computeMetadata/v1/instance/preempted", headers={"Metadata-Flavor": "Google"})
    return Notice("Compute Engine takes the spot VM back", 30) if told == "TRUE" else None


def file_notice(path: Path) -> Notice | None:
    """A file that is there means that the machine shall be left; the number in it, if any, in how many seconds."""
    if not path.exists():
        return None
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        text = ""
    return Notice(f"{path} is there", int(text) if re.fullmatch(r"\d{1,6}", text) else 60)


def _ask(address: str, *, method: str = "GET", headers: dict[str, str]) -> str | None:
    """The answer's text; None where there is none, since a cloud that does not answer has given no notice."""
    request = urllib.request.Request(address, method=method, headers=headers)
    # The metadata service is on the machine itself: no proxy that the user may have set for other traffic.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_ASK_SECONDS) as answer:
            text: str = answer.read(4096).decode("utf-8", "replace")
    except (OSError, urllib.error.URLError):
        return None
    return text.strip()
