"""`python cluster/aws_access.py cluster/aws.yaml`: who may do what on AWS, as the block at the top of the file says.

Makes, or leaves as it is where it is there:

- a security group: SSH from `ssh_from`, everything between the cluster's own machines, and nothing else; of one that is
  there, who may use SSH is made to agree;
- the workers' role: read and write in `bucket`, and nothing else;
- the head's role: the same, and machines of this cluster: start, tag and end them, with the workers' role.

Prints the group's id, which belongs into the block. Needs boto3 and a login that may do this. `--delete` undoes it,
once the cluster is down.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.exceptions import ClientError

from ensemble_tune.cluster.launcher import wrong_range

_TAG = "ray-cluster-name"
"""What Ray's node provider tags its machines with."""
_RANGES = (("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6"))


def main(path: str, *options: str) -> None:
    """Makes or deletes what the file's block names."""
    block = yaml.safe_load(Path(path).read_text(encoding="utf-8"))["metadata"]
    refuse(path, block)
    ec2, iam = boto3.client("ec2", region_name=block["region"]), boto3.client("iam", region_name=block["region"])
    account = boto3.client("sts", region_name=block["region"]).get_caller_identity()["Account"]
    roles = {block["worker_profile"]: worker_policy(block), block["head_profile"]: head_policy(block, account)}
    if "--delete" in options:
        for role in roles:
            delete_role(iam, role)
        delete_group(ec2, block)
        return
    for role, policy in roles.items():
        make_role(iam, role, policy)
    print(f"security_group: &security_group {make_group(ec2, block)}")


def refuse(path: str, block: dict[str, Any]) -> None:
    """Ends the script before anything is made where the block is not filled in, or would let in others."""
    for key in ("cluster_name", "region", "ssh_from", "bucket", "head_profile", "worker_profile"):
        if not block.get(key) or "EDIT" in str(block[key]):
            sys.exit(f"error: metadata.{key} must be edited, but is {block.get(key)!r}; set it in the block of {path}")
    for fault in wrong_range(block["ssh_from"]):
        sys.exit(f"error: {fault}")


def worker_policy(block: dict[str, Any]) -> list[dict[str, Any]]:
    """The bucket, and nothing else."""
    bucket = f"arn:aws:s3:::{block['bucket']}"
    objects = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    return [
        {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation"], "Resource": bucket},
        {"Effect": "Allow", "Action": objects, "Resource": f"{bucket}/*"},
    ]


def head_policy(block: dict[str, Any], account: str) -> list[dict[str, Any]]:
    """The bucket, and this cluster's machines."""
    here = {"StringEquals": {"aws:RequestedRegion": block["region"]}}
    own = {"StringEquals": {f"ec2:ResourceTag/{_TAG}": block["cluster_name"]}}
    instances = f"arn:aws:ec2:{block['region']}:{account}:instance/*"
    made = {"StringEquals": {"ec2:CreateAction": "RunInstances"}}
    return [
        *worker_policy(block),
        {"Effect": "Allow", "Action": "ec2:Describe*", "Resource": "*", "Condition": here},
        {"Effect": "Allow", "Action": "ec2:RunInstances", "Resource": "*", "Condition": here},
        {"Effect": "Allow", "Action": "ec2:CreateTags", "Resource": instances, "Condition": made},
        {
            "Effect": "Allow",
            "Action": ["ec2:CreateTags", "ec2:TerminateInstances"],
            "Resource": instances,
            "Condition": own,
        },
        {
            "Effect": "Allow",
            "Action": "iam:PassRole",
            "Resource": f"arn:aws:iam::{account}:role/{block['worker_profile']}",
        },
    ]


def make_role(iam: Any, name: str, policy: list[dict[str, Any]]) -> None:
    """A role that machines of this name's profile have; its policy is made to agree."""
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    if _is_new(iam.create_role, RoleName=name, AssumeRolePolicyDocument=_policy([trust])):
        print(f"made the role {name}", file=sys.stderr)
    iam.put_role_policy(RoleName=name, PolicyName="ensemble-tune", PolicyDocument=_policy(policy))
    if _is_new(iam.create_instance_profile, InstanceProfileName=name):
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)


def make_group(ec2: Any, block: dict[str, Any]) -> str:
    """The id of the security group in the region's default network."""
    (network,) = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    found = _groups(ec2, block)
    if found:
        mend_group(ec2, found[0], block["ssh_from"])
        return str(found[0]["GroupId"])
    group: str = ec2.create_security_group(
        GroupName=block["cluster_name"], Description="ensemble_tune on Ray", VpcId=network["VpcId"]
    )["GroupId"]
    inside = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[_ssh(block["ssh_from"]), inside])
    return group


def mend_group(ec2: Any, group: dict[str, Any], ssh_from: str) -> None:
    """Lets `ssh_from` use SSH in a group that is there, and no other address range."""
    wanted = False
    for rule in group["IpPermissions"]:
        if rule["IpProtocol"] not in ("tcp", "-1") or not rule.get("FromPort", 0) <= 22 <= rule.get("ToPort", 65535):
            continue
        ports = {key: rule[key] for key in ("IpProtocol", "FromPort", "ToPort") if key in rule}
        for kind, key in _RANGES:
            for each in rule.get(kind, ()):
                if (each[key], rule.get("FromPort"), rule.get("ToPort")) == (ssh_from, 22, 22):
                    wanted = True
                    continue
                print(f"lets {each[key]} in no longer", file=sys.stderr)
                ec2.revoke_security_group_ingress(
                    GroupId=group["GroupId"], IpPermissions=[{**ports, kind: [{key: each[key]}]}]
                )
    if not wanted:
        ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[_ssh(ssh_from)])


def _ssh(ssh_from: str) -> dict[str, Any]:
    kind, key = _RANGES[":" in ssh_from]
    return {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, kind: [{key: ssh_from, "Description": "SSH"}]}


def delete_role(iam: Any, name: str) -> None:
    """The role and its profile, where they are there."""
    _is_there(iam.remove_role_from_instance_profile, InstanceProfileName=name, RoleName=name)
    _is_there(iam.delete_instance_profile, InstanceProfileName=name)
    _is_there(iam.delete_role_policy, RoleName=name, PolicyName="ensemble-tune")
    _is_there(iam.delete_role, RoleName=name)


def delete_group(ec2: Any, block: dict[str, Any]) -> None:
    """The security group, where it is there."""
    for group in _groups(ec2, block):
        ec2.delete_security_group(GroupId=group["GroupId"])


def _groups(ec2: Any, block: dict[str, Any]) -> list[dict[str, Any]]:
    named = [{"Name": "group-name", "Values": [block["cluster_name"]]}]
    groups: list[dict[str, Any]] = ec2.describe_security_groups(Filters=named)["SecurityGroups"]
    return groups


def _is_new(make: Any, **named: Any) -> bool:
    try:
        make(**named)
    except ClientError as error:
        if error.response["Error"]["Code"] != "EntityAlreadyExists":
            raise
        return False
    return True


def _is_there(delete: Any, **named: Any) -> bool:
    try:
        delete(**named)
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchEntity":
            raise
        return False
    return True


def _policy(statements: list[dict[str, Any]]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


if __name__ == "__main__":
    main(*sys.argv[1:])
