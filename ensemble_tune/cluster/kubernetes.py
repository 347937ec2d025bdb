"""Kubernetes' files: a RayCluster that asks for a token, whose pods are pinned and reached by nobody else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ensemble_tune.cluster.cluster_file import ClusterFile
from ensemble_tune.cluster.fleet import Fleet, Group
from ensemble_tune.cluster.shape import ANY_KIND, RAY_CLUSTER, check_shape
from ensemble_tune.errors import ConfigError

_GPU = "nvidia.com/gpu"


def broken(file: ClusterFile) -> Iterator[str]:
    """One line for every rule of ours that the file breaks. Raises ConfigError where it has no RayCluster."""
    cluster = _cluster(file)
    if cluster["spec"].get("authOptions", {}).get("mode") != "token":
        yield "RayCluster.spec: the cluster must ask for a token, but authOptions.mode is not token; set it"
    elif not cluster["spec"]["authOptions"].get("secretName"):
        yield "RayCluster.spec.authOptions: the token must be your own Secret, but secretName is missing; name it"
    if not cluster["spec"].get("enableInTreeAutoscaling"):
        yield "RayCluster.spec: idle machines must go, but enableInTreeAutoscaling is off; switch it on"
    for where, pod in _pods(cluster):
        if pod.get("hostNetwork"):
            yield f"{where}: a pod must stay in its own network, but hostNetwork is on; drop it"
        for container in pod.get("containers", ()):
            image = str(container.get("image", ""))
            name = image.rpartition("/")[2]
            if ":" not in name and "@sha256:" not in image:
                yield f"{where}: versions must be exact, but the image is {image!r}; name its tag"
    if not any(each.get("kind") == "NetworkPolicy" for each in file.documents):
        yield "only the cluster's own pods may reach its ports, but the file has no NetworkPolicy; add one"
    for each in file.documents:
        kind = each.get("kind")
        service = each.get("spec", {}).get("headGroupSpec", {}).get("serviceType", "ClusterIP")
        if kind in ("Ingress", "Service") or service != "ClusterIP":
            yield f"{kind}: the cluster must not be reached from outside, but this lets it; use kubectl port-forward"


def fleet(file: ClusterFile) -> Fleet:
    """What would be started."""
    cluster = _cluster(file)
    spec = cluster["spec"]
    workers = tuple(
        _group(each["groupName"], each["template"]["spec"], each.get("minReplicas", 0), each.get("maxReplicas", 1))
        for each in spec.get("workerGroupSpecs", ())
    )
    seconds = spec.get("autoscalerOptions", {}).get("idleTimeoutSeconds", 60)
    return Fleet(
        name=cluster["metadata"]["name"],
        provider="kubernetes",
        head=_group("head", spec["headGroupSpec"]["template"]["spec"], 1, 1),
        workers=workers,
        most_workers=sum(group.most for group in workers),
        idle_minutes=seconds / 60,
    )


def _group(name: str, pod: Mapping[str, Any], least: int, most: int) -> Group:
    limits = pod["containers"][0].get("resources", {}).get("limits", {})
    return Group(
        name=name,
        machine=f"a pod of {limits.get('memory', 'any size')}",
        least=least,
        most=most,
        cpus=_number(limits.get("cpu")),
        gpus=_number(limits.get(_GPU, 0)),
    )


def _number(quantity: object) -> float | None:
    """A plain number, which Kubernetes may have as text; None for anything else."""
    try:
        number = float(str(quantity))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _cluster(file: ClusterFile) -> dict[str, Any]:
    found = [each for each in file.documents if each.get("kind") == "RayCluster"]
    if len(found) != 1:
        raise ConfigError(f"{file.path} must hold one RayCluster, but holds {len(found)}; see cluster/kuberay.yaml")
    check_shape(found[0], RAY_CLUSTER, f"{file.path} must hold a RayCluster with pods")
    for each in file.documents:
        check_shape(each, ANY_KIND, f"{file.path} must hold what Kubernetes reads")
    return found[0]


def _pods(cluster: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    spec = cluster["spec"]
    yield "RayCluster.spec.headGroupSpec", spec["headGroupSpec"]["template"]["spec"]
    for group in spec.get("workerGroupSpecs", ()):
        yield f"RayCluster.spec.{group['groupName']}", group["template"]["spec"]
