"""Whether the machines of a cluster see one and the same folder."""

from __future__ import annotations

import logging
import socket
import uuid
from collections.abc import Iterable
from pathlib import Path

import ray

from ensemble_tune.errors import ConfigError
from ensemble_tune.storage import PARTIAL
from ensemble_tune.tune.resources import Machine

log = logging.getLogger(__name__)

_SECONDS = 20.0


def refuse_unshared(folder: Path, machines: Iterable[Machine]) -> None:
    """Raises ConfigError where another machine does not see what stands in `folder`.

    Trials would save their checkpoints there, each machine into a folder of its own, and be found wanting at the end.
    Machines that do not answer are believed.
    """
    others = {machine.id: machine.host for machine in machines if machine.host != socket.gethostname()}
    if not others:
        return
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / f"{PARTIAL}{uuid.uuid4().hex}"  # of a driver that dies meanwhile the next one removes it
    token.touch()
    try:
        asked = {_sees.options(label_selector={"ray.io/node-id": each}).remote(str(token)): each for each in others}
        ready, waiting = ray.wait([*asked], num_returns=len(asked), timeout=_SECONDS)
        blind = sorted({others[asked[answer]] for answer in ready if not _told(answer)})
        for answer in waiting:
            log.warning("machine %s does not say whether it sees %s", others[asked[answer]], folder)
            ray.cancel(answer)
    finally:
        token.unlink(missing_ok=True)
    if blind:
        raise ConfigError(
            f"all machines must see --out, but {', '.join(blind)} {'does' if len(blind) == 1 else 'do'} not see "
            f"{folder}; give a folder that they share, or one in a store such as s3://bucket/run"
        )


def _told(answer: ray.ObjectRef[bool]) -> bool:
    try:
        return bool(ray.get(answer))
    except ray.exceptions.RayError as error:
        log.warning("a machine does not say what it sees: %s", error)
        return True


@ray.remote(num_cpus=0, max_retries=0)
def _sees(path: str) -> bool:
    file = Path(path)
    # A network file system may know its folders' content of a moment ago.
    return file.exists() or file.name in [each.name for each in file.parent.glob(f"{PARTIAL}*")]
