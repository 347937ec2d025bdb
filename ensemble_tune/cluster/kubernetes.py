"""Kubernetes' files: a RayCluster that asks for a token, whose pods are pinned and reached by nobody else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from ensemble_tune.cluster.cluster_file import ClusterFile
from ensemble_tune.cluster.fleet import Fleet, Group
from ensemble_tune.cluster.rules import is_pinned
from ensemble_tune.cluster.shape import ANY_KIND, NETWORK_POLICY, RAY_CLUSTER, check_shape
from ensemble_tune.errors import ConfigError

_GPU = "nvidia.com/gpu"
_CLUSTER, _NAMESPACE = "ray.io/cluster", "kubernetes.io/metadata.name"
"""The labels that KubeRay gives a cluster's pods, and Kubernetes a namespace."""
_DASHBOARD = 8265


def broken(file: ClusterFile) -> Iterator[str]:
    """One line for every rule of ours that the file breaks. Raises ConfigError where it has no RayCluster."""
    cluster = _cluster(file)
    if cluster["spec"].get("authOptions", {}).get("mode") != "token":
        yield "RayCluster.spec: the cluster must ask for a token, but authOptions.mode is not token; set it"
    elif not cluster["spec"]["authOptions"].get("secretName"):
        yield "RayCluster.spec.authOptions: the token must be your own Secret, but secretName is missing; name it"
    if str(cluster["spec"].get("rayVersion")) != version("ray"):
        yield (
            f"RayCluster.spec: the cluster's Ray must be the tested one, but rayVersion is "
            f"{cluster['spec'].get('rayVersion')}; set {version('ray')}, here and in the image"
        )
    if not cluster["spec"].get("enableInTreeAutoscaling"):
        yield "RayCluster.spec: idle machines must go, but enableInTreeAutoscaling is off; switch it on"
    for where, pod in _pods(cluster):
        if pod.get("hostNetwork"):
            yield f"{where}: a pod must stay in its own network, but hostNetwork is on; drop it"
        for container in pod.get("containers", ()):
            image = container.get("image", "")
            if not is_pinned(image):
                yield f"{where}: versions must be exact, but the image is {image!r}; name its tag"
            if any(port.get("hostPort") for port in container.get("ports", ())):
                yield f"{where}: a pod must stay in its own network, but a port has a hostPort; drop it"
    yield from _reach(file, cluster["metadata"]["name"])
    for each in file.documents:
        kind = each.get("kind")
        if kind == "RayJob" and "clusterSelector" in each.get("spec", {}) and each["spec"].get("backoffLimit"):
            yield (
                "RayJob.spec.backoffLimit must not be set beside clusterSelector: KubeRay refuses the pair, or deletes "
                "the cluster to try again; drop it, and apply the RayJob again where it failed"
            )
        service = each.get("spec", {}).get("headGroupSpec", {}).get("serviceType", "ClusterIP")
        if kind in ("Ingress", "Service") or service != "ClusterIP":
            yield f"{kind}: the cluster must not be reached from outside, but this lets it; use kubectl port-forward"


def _reach(file: ClusterFile, name: str) -> Iterator[str]:
    """The cluster's ports are for its own pods; the dashboard's also for a namespace that is named, the operator's."""
    policies = [each for each in file.documents if each.get("kind") == "NetworkPolicy"]
    own = {_CLUSTER: name}
    kept = False
    for policy in policies:
        spec = policy["spec"]
        kept = kept or (
            spec["podSelector"] in ({}, {"matchLabels": own}) and "Ingress" in spec.get("policyTypes", ["Ingress"])
        )
        for number, rule in enumerate(spec.get("ingress", ())):
            peers = rule.get("from", ())
            dashboard = [port.get("port") for port in rule.get("ports", ())] == [_DASHBOARD]
            if not peers or not all(_is_own(peer, own) or (dashboard and _is_named(peer)) for peer in peers):
                yield (
                    f"NetworkPolicy.spec.ingress[{number}]: only the cluster's own pods may reach its ports, and the "
                    f"operator's namespace port {_DASHBOARD}, but this lets others; select {_CLUSTER}: {name}"
                )
    if not kept:
        yield (
            "only the cluster's own pods may reach its ports, but the file has no NetworkPolicy for them; add one that "
            f"selects {_CLUSTER}: {name}"
        )


def _is_own(peer: Mapping[str, Any], own: Mapping[str, str]) -> bool:
    return peer == {"podSelector": {"matchLabels": own}}


def _is_named(peer: Mapping[str, Any]) -> bool:
    return bool(peer.get("namespaceSelector", {}).get("matchLabels", {}).get(_NAMESPACE)) and "ipBlock" not in peer


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
        is_policy = each.get("kind") == "NetworkPolicy"
        check_shape(each, NETWORK_POLICY if is_policy else ANY_KIND, f"{file.path} must hold what Kubernetes reads")
    return found[0]


def _pods(cluster: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    spec = cluster["spec"]
    yield "RayCluster.spec.headGroupSpec", spec["headGroupSpec"]["template"]["spec"]
    for group in spec.get("workerGroupSpecs", ()):
        yield f"RayCluster.spec.{group['groupName']}", group["template"]["spec"]
