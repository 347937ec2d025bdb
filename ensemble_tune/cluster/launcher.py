"""`ray up`'s files: Ray's own schema and defaults, our rules on top, and what would be started."""

from __future__ import annotations

import io
import ipaddress
import logging
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ensemble_tune.cluster.cluster_file import ClusterFile
from ensemble_tune.cluster.fleet import Fleet, Group, price_of
from ensemble_tune.cluster.rules import is_pinned
from ensemble_tune.cluster.shape import LAUNCHER, check_shape
from ensemble_tune.errors import ConfigError, suggest

PROVIDERS = ("aws", "gcp", "local")
TOKEN = "~/.ray/auth_token"
"""Where Ray looks for the token on every machine."""
_SHORTEST_PREFIX = {4: 16, 6: 32}
"""An address range wider than this is nobody's own."""
_MOST_IDLE_MINUTES = 60
_BUILD = "build it: pip wheel --no-deps -w dist ."


def expanded(file: ClusterFile) -> dict[str, Any]:
    """The file with Ray's defaults filled in. Raises ConfigError where Ray would refuse it."""
    # Ray's own functions, as `ray up` calls them; they are private to it, and imported here since they take a second.
    import jsonschema
    from click import ClickException
    from ray.autoscaler._private.util import prepare_config, validate_config

    (document,) = file.documents
    check_shape(document, LAUNCHER, f"{file.path} must keep to Ray's schema")
    provider = document["provider"]["type"]
    if provider not in PROVIDERS:
        raise ConfigError(f"provider.type in {file.path} cannot be {provider!r}; {suggest(provider, PROVIDERS)}")
    try:
        with _hushed():
            config: dict[str, Any] = prepare_config(document)
            validate_config(config)
    except jsonschema.ValidationError as error:
        where = ".".join(str(part) for part in error.absolute_path) or "the top"
        raise ConfigError(
            f"{file.path} must keep to Ray's schema, but at {where} {_first_line(error.message)}"
        ) from None
    except (ValueError, RuntimeError, KeyError, OSError, ClickException) as error:
        raise ConfigError(f"{file.path} must be accepted by Ray, but is not: {_first_line(str(error))}") from None
    return config


def broken(file: ClusterFile, config: Mapping[str, Any]) -> Iterator[str]:
    """One line for every rule of ours that the file breaks; config: what `expanded` returned."""
    yield from _token(config)
    yield from _install(file, config)
    yield from _images(file.documents[0])
    head = " ".join(config["head_start_ray_commands"])
    if "--dashboard-host=127.0.0.1" not in head:
        yield (
            "head_start_ray_commands: the dashboard must listen on 127.0.0.1, but the command does not say so; "
            "add --dashboard-host=127.0.0.1"
        )
    provider = config["provider"]["type"]
    if provider == "local":
        return
    minutes = config["idle_timeout_minutes"]
    if "idle_timeout_minutes" not in file.documents[0] or not 0 < minutes <= _MOST_IDLE_MINUTES:
        yield f"idle_timeout_minutes must be above 0 and at most {_MOST_IDLE_MINUTES}, but is {minutes}; try 5"
    yield from wrong_range(file.documents[0].get("metadata", {}).get("ssh_from"))
    for name, node_type in config["available_node_types"].items():
        where = f"available_node_types.{name}.node_config"
        is_head = name == config["head_node_type"]
        yield from (_aws if provider == "aws" else _gcp)(where, node_type["node_config"], is_head)
    if provider == "aws" and "security_group" in config["provider"]:
        yield (
            "provider.security_group must not be used, since Ray opens SSH to everybody in a group that it fills; "
            "name a group of your own by SecurityGroupIds"
        )


def fleet(file: ClusterFile, config: Mapping[str, Any]) -> Fleet:
    """What would be started; config: what `expanded` returned."""
    metadata = file.documents[0].get("metadata") or {}
    prices = metadata.get("prices") or {}
    types, head = config["available_node_types"], config["head_node_type"]

    def group(name: str, least: int, most: int) -> Group:
        node, resources = types[name]["node_config"], types[name]["resources"]
        return Group(
            name=name,
            machine=str(node.get("InstanceType") or node.get("machineType") or "a host of yours"),
            least=least,
            most=most,
            cpus=resources.get("CPU"),
            gpus=resources.get("GPU", 0 if "CPU" in resources else None),
            spot=_is_spot(node),
            # Hosts of one's own are paid for already.
            price=price_of(prices, name) if config["provider"]["type"] != "local" else 0.0,
        )

    is_local = config["provider"]["type"] == "local"
    workers = [name for name in types if name != head or is_local]
    return Fleet(
        name=config["cluster_name"],
        provider=config["provider"]["type"],
        head=group(head, 1, 1),
        workers=tuple(group(name, types[name]["min_workers"], types[name]["max_workers"]) for name in workers),
        most_workers=config["max_workers"],
        idle_minutes=None if is_local else config["idle_timeout_minutes"],
        currency=str(prices.get("currency", "")) if prices else "",
    )


def _token(config: Mapping[str, Any]) -> Iterator[str]:
    """The token is on every machine, and nobody else's to read."""
    local = config["file_mounts"].get(TOKEN)
    if local is None:
        yield f"file_mounts: the token must be on every machine, but {TOKEN} is missing; mount your token there"
        return
    setup = " ".join(config["setup_commands"])
    if f"chmod 600 {TOKEN}" not in setup:
        yield f"setup_commands: the token must be its owner's alone, but `chmod 600 {TOKEN}` is missing; add it"
    path = _here(local)
    if not _text_in(path).strip():
        yield (
            f"file_mounts: there must be a token in {path}, but there is none; make one with: "
            f"(umask 077 && ray get-auth-token --generate > /dev/null)"
        )
    elif stat.S_IMODE(path.stat().st_mode) & 0o077:
        mode = stat.S_IMODE(path.stat().st_mode)
        yield f"the token must be its owner's alone, but {path} has mode {mode:o}; run: chmod 600 {path}"


def _install(file: ClusterFile, config: Mapping[str, Any]) -> Iterator[str]:
    """Our wheel and its constraints are carried to every machine, and they are of the Ray that runs `ray up`."""
    mounts = {remote: _here(local) for remote, local in config["file_mounts"].items()}
    if not any(path.suffix == ".whl" for path in mounts.values()):
        yield f"file_mounts: the wheel must be on every machine, but none is mounted; {_BUILD}"
    constraints = [path for remote, path in mounts.items() if remote.rpartition("/")[2] == "constraints.txt"]
    if not constraints:
        yield "file_mounts: versions must be exact, but constraints.txt is missing; mount it"
    for path in mounts.values():
        if not _exists(path):
            how = _BUILD if path.suffix == ".whl" else "mend the path"
            yield f"file_mounts: what is mounted must be there, but {path} is not; {how}"
    for path in constraints:
        pinned = _text_in(path).split()
        if pinned and f"ray=={version('ray')}" not in pinned:
            yield (
                f"the Ray that runs `ray up` must be the cluster's, but here it is {version('ray')} and {path} says "
                f"otherwise; install from {path}"
            )


def _images(document: Mapping[str, Any]) -> Iterator[str]:
    types = document.get("available_node_types") or {}
    places = {"docker": document.get("docker")}
    places |= {f"available_node_types.{name}.docker": node_type.get("docker") for name, node_type in types.items()}
    for where, docker in places.items():
        for key, image in docker.items() if isinstance(docker, dict) else ():
            if key.endswith("image") and image and not is_pinned(image):
                yield f"{where}.{key}: versions must be exact, but the image is {str(image)!r}; name its tag"


def wrong_range(own: object) -> Iterator[str]:
    """One line where whoever may log in is not an address range of the user's own."""
    try:
        network = ipaddress.ip_network(str(own))
    except ValueError:
        yield f"metadata.ssh_from must be an address range such as 198.51.100.7/32, but is {own}; name your own"
        return
    if network.prefixlen < _SHORTEST_PREFIX[network.version]:
        yield f"metadata.ssh_from must be your own address range, but {own} is wider; try your address with /32"


def _aws(where: str, node: Mapping[str, Any], is_head: bool) -> Iterator[str]:
    if not node.get("SecurityGroupIds"):
        yield (
            f"{where}: each machine must be in a group of yours, but SecurityGroupIds is missing, and then Ray makes "
            "one that lets everybody try SSH; run cluster/aws_access.py and name the group it prints"
        )
    if "IamInstanceProfile" not in node:
        yield f"{where}: each machine must have a role of its own, but IamInstanceProfile is missing; add it"
    if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
        yield f"{where}: a machine's role must not leak, but MetadataOptions.HttpTokens is not required; require it"
    if not str(node.get("ImageId", "")).startswith("ami-"):
        yield f"{where}: versions must be exact, but ImageId is {node.get('ImageId')}; name an image by its id"
    if is_head and _is_spot(node):
        yield f"{where}: the head must not be taken away, but it is on spot; drop InstanceMarketOptions"


def _gcp(where: str, node: Mapping[str, Any], is_head: bool) -> Iterator[str]:
    if not all("subnetwork" in each for each in node.get("networkInterfaces") or [{}]):
        yield (
            f"{where}: each machine must be in a network of yours, but networkInterfaces names none, and the default "
            "one lets everybody try SSH; name its subnetwork"
        )
    if not node.get("serviceAccounts"):
        yield f"{where}: each machine must have a role of its own, but serviceAccounts is missing; add it"
    for disk in node.get("disks") or [{}]:
        image = str(disk.get("initializeParams", {}).get("sourceImage", ""))
        if "/images/" not in image:
            yield f"{where}: versions must be exact, but sourceImage is {image or None}; name an image, not a family"
    if is_head and _is_spot(node):
        yield f"{where}: the head must not be taken away, but it is on spot; drop scheduling"


def _is_spot(node: Mapping[str, Any]) -> bool:
    """Whether the provider may take the machine back, in AWS's words or in GCP's."""
    market = node.get("InstanceMarketOptions", {}).get("MarketType")
    scheduling = node.get("scheduling", {})
    return market == "spot" or (isinstance(scheduling, dict) and scheduling.get("provisioningModel") == "SPOT")


def _here(local: str) -> Path:
    """A path as a file has it, from the user's home where it says so."""
    try:
        return Path(local).expanduser()
    except RuntimeError:  # of a user who is not known here
        return Path(local)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # no file can have such a name, or it is not for us to look
        return False


def _text_in(path: Path) -> str:
    """What a text file holds; nothing where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


@contextmanager
def _hushed() -> Iterator[None]:
    """Keeps what Ray says of its own defaults off the terminal; what it refuses, it raises."""
    logger = logging.getLogger("ray.autoscaler")
    level = logger.level
    # Ray says of its own default files that they should be folders.
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        # As it was before.
        logger.setLevel(level)


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[0]
