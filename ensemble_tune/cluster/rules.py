"""What every cluster file must keep to, whoever reads it: no open door, no secret, nothing that changes by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ensemble_tune.cluster.cluster_file import ClusterFile

# Each: what must not be there, why, and what to do.
_FORBIDDEN = (
    (re.compile(r"\bEDIT\b"), "what is marked must be edited", "set it in the block at the top"),
    (
        re.compile(r"(?<![\d.])0\.0\.0\.0(?!\d)|(?<![\w:])::(?:/0)?(?![\w:])|\[::\]"),
        "nothing may listen, or be let in, everywhere",
        "name 127.0.0.1 or your own CIDR",
    ),
    (
        re.compile(r"dashboard-host(?:=|\s+)(?![\"']?(?:127\.0\.0\.1|localhost)\b)"),
        "the dashboard must listen on 127.0.0.1",
        "write --dashboard-host=127.0.0.1 and reach it through `ray dashboard`",
    ),
    (
        re.compile(
            r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|PRIVATE KEY|aws_secret|AWS_SECRET|AWS_ACCESS_KEY|gcp_credentials", re.I
        ),
        "no key may stand in a file or an environment",
        "give the machines a role",
    ),
    (
        re.compile(r"RAY_AUTH_TOKEN=|auth_token=\S"),
        "the token must stay in its file, since a command line is seen by all",
        "mount it as ~/.ray/auth_token",
    ),
    (re.compile(r"RAY_AUTH_MODE=(?!token\b)"), "the cluster must ask for a token", "export RAY_AUTH_MODE=token"),
    (
        re.compile(r":latest\b|\bnightly\b|\.dev0\b|ray-wheels|/family/|latest_dlami"),
        "versions must be exact",
        "name the tested one",
    ),
)
_START = re.compile(r"\bray start\b")
_INSTALL = re.compile(r"\bpip3? install\b(?P<rest>[^;&|]*)")
_UNDER = re.compile(r"(?:^|\s)(?:-c\s*|--constraint[= ]\s*)(?:\S*/)?constraints\.txt(?=[\"'\s]|$)")
"""Under the tested versions; each of some packages named with `==` would leave what those need to chance."""
_HOST = re.compile(r"^-{0,2}dashboard-host$")
_OWN_HOST = re.compile(r"127\.0\.0\.1|localhost|\$[({]?\w*POD_IP[)}]?")


def broken(file: ClusterFile) -> Iterator[str]:
    """One line for every rule that the file breaks: where, rule, value, remedy."""
    told: set[tuple[str, str]] = set()
    before = ""
    for where, text in file.lines():
        if _HOST.search(before) and not _OWN_HOST.fullmatch(text):
            yield (
                f"{where}: the dashboard must listen on 127.0.0.1, or on its pod's own address, but it has "
                f"{text[:60]!r}; leave it out"
            )
        before = text
        for pattern, rule, remedy in _FORBIDDEN:
            found = pattern.search(text)
            # What stands in the marked block is used below it by its anchor: once is enough.
            if found and (rule, text) not in told:
                told.add((rule, text))
                yield f"{where}: {rule}, but it has {_around(text, found)!r}; {remedy}"
        if _START.search(text) and "RAY_AUTH_MODE=token" not in text and not _is_exported(file):
            yield f"{where}: Ray must start with a token, but RAY_AUTH_MODE=token is missing; export it in the command"
        for install in _INSTALL.finditer(text):
            if not _UNDER.search(install["rest"]):
                yield f"{where}: versions must be exact, but it has {install[0].strip()!r}; add -c constraints.txt"


def is_pinned(image: object) -> bool:
    """Whether a container's image is named by its tag or its digest."""
    return ":" in str(image).rpartition("/")[2] or "@sha256:" in str(image)


def _is_exported(file: ClusterFile) -> bool:
    """Whether a script has exported it in a line of its own, which holds for all that follow."""
    return not file.documents and bool(re.search(r"^export .*RAY_AUTH_MODE=token", file.text, re.MULTILINE))


def _around(text: str, found: re.Match[str]) -> str:
    """The word that breaks a rule, with what surrounds it."""
    begin = text.rfind(" ", 0, found.start()) + 1
    end = text.find(" ", found.end())
    return text[begin : end if end >= 0 else None].strip()[:60]
