"""`python aws_bootstrap.py FILE`: aws.yaml through our script, Ray's bootstrap and node provider, on a simulated AWS.

The simulator (moto) listens on this machine's loopback, and every request of this process goes there. Prints what was
made as JSON: everything is read back from the simulator, nothing from what was asked for.
"""

import contextlib
import io
import json
import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any

os.environ["MOTO_IAM_LOAD_MANAGED_POLICIES"] = "true"
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
_, port = server.get_host_and_port()
os.environ |= {
    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    "AWS_ACCESS_KEY_ID": "simulated",
    "AWS_SECRET_ACCESS_KEY": "simulated",
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
}

import boto3
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.tags import NODE_KIND_HEAD, NODE_KIND_WORKER, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

from ensemble_tune.cluster.check import check
from ensemble_tune.cluster.cluster_file import ClusterFile
from ensemble_tune.cluster.launcher import expanded


def main(path: Path) -> None:
    access = Path(__file__).parents[2] / "cluster" / "aws_access.py"
    printed = [run_script(access, path), run_script(access, path)]
    assert printed[0] == printed[1], "a second call makes nothing new"
    open_ssh(printed[0].split()[-1])
    assert run_script(access, path) == printed[0]
    path.write_text(re.sub(r"security_group: &security_group \S+", printed[0].strip(), path.read_text()))
    file = ClusterFile.load(path)
    assert check(path).broken == (), check(path).broken
    config = AWSNodeProvider.bootstrap_config(expanded(file))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, kind in (("head", NODE_KIND_HEAD), ("small", NODE_KIND_WORKER), ("large", NODE_KIND_WORKER)):
        # As `ray up` does for the head, and the head's autoscaler for the others.
        asked = {
            **(config["head_node"] if kind == NODE_KIND_HEAD else {}),
            **config["available_node_types"][name]["node_config"],
        }
        tags = {TAG_RAY_NODE_KIND: kind, TAG_RAY_USER_NODE_TYPE: name, "ray-launch-config": "x"}
        provider.create_node(asked, tags, 1)
    made = read_back(config)
    for node in provider.non_terminated_nodes({}):
        provider.terminate_node(node)
    run_script(access, path, "--delete")
    json.dump(made | {"left": left(config)}, sys.stdout, default=str)


def open_ssh(group: str) -> None:
    """Lets in everybody, as somebody may have done by hand, and others by their own port."""
    ec2 = boto3.client("ec2", region_name="us-west-2")
    everybody = [{"IpProtocol": "tcp", "FromPort": 0, "ToPort": 1024, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    everybody += [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}]
    everybody += [{"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "198.51.100.0/24"}]}]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=everybody)


def run_script(script: Path, path: Path, *options: str) -> str:
    sys.argv = [str(script), str(path), *options]
    with contextlib.redirect_stdout(io.StringIO()) as told:
        runpy.run_path(str(script), run_name="__main__")
    return told.getvalue()


def read_back(config: dict[str, Any]) -> dict[str, Any]:
    region = config["provider"]["region"]
    ec2, iam = boto3.client("ec2", region_name=region), boto3.client("iam", region_name=region)
    groups = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [config["cluster_name"]]}])
    instances = [each for found in ec2.describe_instances()["Reservations"] for each in found["Instances"]]
    key = Path(config["auth"]["ssh_private_key"])
    disks = ec2.describe_volumes()["Volumes"]
    return {
        "disks": {disk["VolumeId"]: disk["Encrypted"] for disk in disks},
        "groups": groups["SecurityGroups"],
        "all_groups": [group["GroupName"] for group in ec2.describe_security_groups()["SecurityGroups"]],
        "instances": {tag(each, "ray-user-node-type"): each for each in instances},
        "roles": {role["RoleName"]: policy(iam, role["RoleName"]) for role in iam.list_roles()["Roles"]},
        "attached": {
            role["RoleName"]: iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"]
            for role in iam.list_roles()["Roles"]
        },
        "profiles": {
            each["InstanceProfileName"]: [role["RoleName"] for role in each["Roles"]]
            for each in iam.list_instance_profiles()["InstanceProfiles"]
        },
        "keys": [each["KeyName"] for each in ec2.describe_key_pairs()["KeyPairs"]],
        "key_mode": oct(key.stat().st_mode & 0o777),
        "key_home": str(key.parent.parent),
    }


def left(config: dict[str, Any]) -> list[str]:
    """What is still there of what the script has made."""
    region = config["provider"]["region"]
    ec2, iam = boto3.client("ec2", region_name=region), boto3.client("iam", region_name=region)
    names = [group["GroupName"] for group in ec2.describe_security_groups()["SecurityGroups"]]
    names += [role["RoleName"] for role in iam.list_roles()["Roles"]]
    names += [each["InstanceProfileName"] for each in iam.list_instance_profiles()["InstanceProfiles"]]
    return [name for name in names if name != "default"]


def tag(instance: dict[str, Any], name: str) -> str:
    return next(each["Value"] for each in instance["Tags"] if each["Key"] == name)


def policy(iam: Any, role: str) -> list[dict[str, Any]]:
    (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
    document = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    statements: list[dict[str, Any]] = document["Statement"]
    return statements


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    server.stop()
