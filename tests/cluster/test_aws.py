"""aws.yaml goes through Ray's own AWS bootstrap and node provider, as far as the request for machines."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cluster_files import ROOT, prepare

pytest.importorskip("moto", reason="AWS is simulated by moto: pip install moto[server]")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was made on the simulated AWS."""
    folder = tmp_path_factory.mktemp("aws")
    path = prepare(folder, "aws.yaml")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
    environment |= {"HOME": str(folder), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(Path(__file__).parent / "aws_bootstrap.py"), str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return found | {"home": str(folder)}


def test_ssh_is_open_to_the_user_alone_and_the_rest_to_the_cluster(made: dict[str, Any]) -> None:
    (group,) = made["groups"]
    open_to = {
        (rule["IpProtocol"], rule.get("FromPort"), each["CidrIp"])
        for rule in group["IpPermissions"]
        for each in rule["IpRanges"]
    }
    # Before, everybody was let in, and somebody else by another port: what is no SSH is left as it is.
    assert open_to == {("tcp", 22, "198.51.100.7/32"), ("tcp", 443, "198.51.100.0/24")}
    assert not [each for rule in group["IpPermissions"] for each in rule.get("Ipv6Ranges", [])]
    inside = [each["GroupId"] for rule in group["IpPermissions"] for each in rule["UserIdGroupPairs"]]
    assert inside == [group["GroupId"]]
    assert set(made["all_groups"]) == {"default", "ensemble-tune"}, "Ray has made no group of its own"


def test_every_machine_is_in_that_group_and_tells_its_role_to_itself_alone(made: dict[str, Any]) -> None:
    (group,) = made["groups"]
    assert set(made["instances"]) == {"head", "small", "large"}
    for machine in made["instances"].values():
        assert [each["GroupId"] for each in machine["SecurityGroups"]] == [group["GroupId"]]
        assert machine["ImageId"] == "ami-0123456789abcdef0"
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
        assert machine["MetadataOptions"]["HttpPutResponseHopLimit"] == 1


def test_every_disk_is_encrypted_and_goes_with_its_machine(made: dict[str, Any]) -> None:
    for machine in made["instances"].values():
        (disk,) = machine["BlockDeviceMappings"]
        assert disk["DeviceName"] == "/dev/sda1" and disk["Ebs"]["DeleteOnTermination"] is True
        assert made["disks"][disk["Ebs"]["VolumeId"]] is True


def test_delete_leaves_nothing_that_the_script_has_made(made: dict[str, Any]) -> None:
    assert made["left"] == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"ssh_from": "0.0.0.0/0"}, "0.0.0.0/0 is wider"),
        ({"ssh_from": '"::/0"'}, "::/0 is wider"),
        ({"ssh_from": "198.48.0.0/13"}, "198.48.0.0/13 is wider"),
        ({"ssh_from": "EDIT"}, "metadata.ssh_from must be edited"),
        ({"bucket": "EDIT"}, "metadata.bucket must be edited"),
    ],
)
def test_nobody_is_let_in_by_a_block_that_is_not_filled_in_or_too_wide(
    values: dict[str, object], told: str, tmp_path: Path
) -> None:
    path = prepare(tmp_path, "aws.yaml", **values)
    # Nobody answers there: it ends before anything is asked.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    command = [sys.executable, str(ROOT / "cluster" / "aws_access.py"), str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and told in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_the_head_is_on_demand_and_the_workers_are_on_spot(made: dict[str, Any]) -> None:
    kinds = {name: (each["InstanceType"], each.get("InstanceLifecycle")) for name, each in made["instances"].items()}
    assert kinds == {"head": ("m7i.large", None), "small": ("g6.xlarge", "spot"), "large": ("g6e.xlarge", "spot")}


def test_each_machine_has_the_role_of_its_kind(made: dict[str, Any]) -> None:
    profiles = {name: each["IamInstanceProfile"]["Arn"].rpartition("/")[2] for name, each in made["instances"].items()}
    worker, head = "ensemble-tune-worker", "ensemble-tune-head"
    assert profiles == {"head": head, "small": worker, "large": worker}
    assert made["profiles"] == {head: [head], worker: [worker]}, "Ray's own, which may do anything on EC2, is not made"
    assert not any(made["attached"].values())


def test_the_worker_s_role_reaches_the_bucket_and_the_head_s_this_cluster_s_machines(made: dict[str, Any]) -> None:
    bucket = "arn:aws:s3:::example-bucket"
    worker, head = made["roles"]["ensemble-tune-worker"], made["roles"]["ensemble-tune-head"]
    assert {statement["Resource"] for statement in worker} == {bucket, f"{bucket}/*"}
    allowed = {action: statement for statement in head for action in actions(statement)}
    assert not any(action.endswith(":*") for action in allowed)
    assert allowed["ec2:TerminateInstances"]["Condition"] == {
        "StringEquals": {"ec2:ResourceTag/ray-cluster-name": "ensemble-tune"}
    }
    assert allowed["iam:PassRole"]["Resource"].endswith(":role/ensemble-tune-worker")


def test_the_key_is_made_for_the_user_alone(made: dict[str, Any]) -> None:
    assert made["keys"] == ["ray-autoscaler_us-west-2"]
    assert made["key_mode"] == "0o600" and made["key_home"] == made["home"]
    assert {each["KeyName"] for each in made["instances"].values()} == set(made["keys"])


def actions(statement: dict[str, Any]) -> list[str]:
    named = statement["Action"]
    return [named] if isinstance(named, str) else named
