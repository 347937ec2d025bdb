"""What a YAML file must look like for us to read it, as JSON Schema; what is not named here may be anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensemble_tune.errors import ConfigError

Schema = Mapping[str, Any]


def _table(*needed: str, **known: Schema) -> Schema:
    return {"type": "object", "required": list(needed), "properties": known}


def _list(of: Schema, least: int = 0) -> Schema:
    return {"type": "array", "items": of, "minItems": least}


_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer", "minimum": 0, "maximum": 1_000_000}
_COMMANDS = _list(_TEXT)
_NODE = _table(
    MetadataOptions=_table(),
    InstanceMarketOptions=_table(),
    networkInterfaces=_list(_table()),
    disks=_list(_table(initializeParams=_table())),
)
LAUNCHER = _table(
    "provider",
    provider=_table("type", type=_TEXT, head_ip=_TEXT, worker_ips=_list(_TEXT)),
    cluster_name=_TEXT,
    metadata=_table(prices=_table()),
    max_workers=_WHOLE,
    idle_timeout_minutes={"type": "number", "minimum": 0, "maximum": 1_000_000},
    head_node_type=_TEXT,
    file_mounts={"type": "object", "additionalProperties": _TEXT},
    docker=_table(),
    auth=_table(),
    initialization_commands=_COMMANDS,
    setup_commands=_COMMANDS,
    head_setup_commands=_COMMANDS,
    worker_setup_commands=_COMMANDS,
    head_start_ray_commands=_COMMANDS,
    worker_start_ray_commands=_COMMANDS,
    available_node_types={
        "type": "object",
        "additionalProperties": _table(
            "resources", "node_config", resources=_table(), node_config=_NODE, min_workers=_WHOLE, max_workers=_WHOLE
        ),
    },
)
"""A file for `ray up`, beside what Ray's own schema says."""

_CONTAINER = _table(resources=_table(limits=_table()), ports=_list(_table()))
_POD = _table("spec", spec=_table("containers", containers=_list(_CONTAINER, least=1)))
RAY_CLUSTER = _table(
    "metadata",
    "spec",
    metadata=_table("name", name=_TEXT),
    spec=_table(
        "headGroupSpec",
        authOptions=_table(),
        autoscalerOptions=_table(idleTimeoutSeconds=_WHOLE),
        headGroupSpec=_table("template", template=_POD),
        workerGroupSpecs=_list(
            _table("groupName", "template", groupName=_TEXT, template=_POD, minReplicas=_WHOLE, maxReplicas=_WHOLE)
        ),
    ),
)
"""KubeRay's RayCluster."""
_SELECTOR = _table(matchLabels=_table())
_PEER = _table(podSelector=_SELECTOR, namespaceSelector=_SELECTOR)
NETWORK_POLICY = _table(
    "spec",
    spec=_table(
        "podSelector",
        podSelector=_SELECTOR,
        policyTypes=_list(_TEXT),
        ingress=_list(_table(**{"from": _list(_PEER)}, ports=_list(_table()))),
    ),
)
"""Who may reach pods."""
ANY_KIND = _table(spec=_table(headGroupSpec=_table()))
"""Whatever else is in a file for Kubernetes."""


def check_shape(document: object, schema: Schema, what: str) -> None:
    """Raises ConfigError where a document is not as `schema` says; what: the file, and who reads it."""
    import jsonschema  # Ray's; it takes a moment

    try:
        jsonschema.validate(document, schema)
    except jsonschema.ValidationError as error:
        where = ".".join(str(part) for part in error.absolute_path) or "the top"
        reason = (error.message.strip().splitlines() or ["no reason given"])[0]
        raise ConfigError(f"{what}, but at {where} {reason}; mend it") from None
