"""Every shipped file is safe, and a file that is not is refused with the rule that it breaks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cluster_files import EDITS, ROOT, SHIPPED, block_of, edited, prepare

from ensemble_tune.cluster.check import check
from ensemble_tune.errors import ConfigError

NAMES = [path.name for path in SHIPPED]
LAUNCHED = ["aws.yaml", "gcp.yaml", "onpremises.yaml"]


def test_the_shipped_files_are_the_five_that_the_page_tells_of() -> None:
    assert set(NAMES) == set(EDITS)
    page = (ROOT / "cluster" / "README.md").read_text()
    assert all(name in page for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_file_keeps_to_every_rule_once_its_block_is_filled_in(name: str, tmp_path: Path) -> None:
    assert check(prepare(tmp_path, name)).broken == ()


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_file_is_refused_until_its_block_is_filled_in(name: str) -> None:
    told = [line for line in check(ROOT / "cluster" / name).broken if "must be edited" in line]
    text = (ROOT / "cluster" / name).read_text()
    assert told
    assert "EDIT" not in text.replace(block_of(text), ""), "all that a user must edit stands in the block"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_a_shipped_file_is_public_or_floats_or_holds_a_secret(name: str) -> None:
    """Without our own checker, so that a rule that it has lost is missed."""
    lines = [line.split(" #")[0] for line in (ROOT / "cluster" / name).read_text().splitlines()]
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#") or line.startswith("#SBATCH"))
    for forbidden in (r"0\.0\.0\.0", r"::/0", ":latest", "nightly", "dev0", "/family/", "NodePort", "LoadBalancer"):
        assert not re.search(forbidden, text), forbidden
    for secret in ("AKIA", "aws_secret", "AWS_SECRET", "PRIVATE KEY", "RAY_AUTH_TOKEN=", "password"):
        assert secret not in text, secret
    if name != "kuberay.yaml":
        assert "--dashboard-host=127.0.0.1" in text and "RAY_AUTH_MODE=token" in text and "chmod 600" in text


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_command_that_starts_ray_asks_for_the_token(name: str) -> None:
    document = yaml.safe_load((ROOT / "cluster" / name).read_text())
    commands = document["head_start_ray_commands"] + document["worker_start_ray_commands"]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "~/.ray/auth_token" in document["file_mounts"]


def test_the_versions_that_the_files_name_are_the_tested_ones() -> None:
    ray = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    own = re.search(r'^version = "(\S+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert ray and own
    assert f"rayproject/ray:{ray[1]}-py311-gpu" in (ROOT / "cluster" / "Dockerfile").read_text()
    assert f'rayVersion: "{ray[1]}"' in (ROOT / "cluster" / "kuberay.yaml").read_text()
    for name in LAUNCHED:
        assert f"ensemble_tune-{own[1]}-py3-none-any.whl" in (ROOT / "cluster" / name).read_text()


BREAKS = [
    # A public bind.
    ("aws.yaml", "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "listen on 127.0.0.1"),
    ("onpremises.yaml", "--dashboard-host=127.0.0.1", "", "listen on 127.0.0.1"),
    ("slurm.sh", "--dashboard-host=127.0.0.1", "--dashboard-host=::", "listen on 127.0.0.1"),
    ("kuberay.yaml", "serviceType: ClusterIP", "serviceType: LoadBalancer", "not be reached from outside"),
    ("kuberay.yaml", "kind: NetworkPolicy", "kind: ConfigMap", "no NetworkPolicy"),
    ("kuberay.yaml", "ingress:\n", "ingress:\n        - {}\n", "this lets others"),
    (
        "kuberay.yaml",
        "from: [{podSelector: {matchLabels: {ray.io/cluster: ensemble-tune}}}]",
        "from: [{podSelector: {matchLabels: {app: mine}}}]",
        "this lets others",
    ),
    ("kuberay.yaml", "from: [{podSelector", "from: [{namespaceSelector: {}, podSelector", "this lets others"),
    ("kuberay.yaml", "port: 8265", "port: 6379", "this lets others"),
    (
        "kuberay.yaml",
        "  podSelector: {matchLabels: {ray.io/cluster: ensemble-tune}}\n",
        "  podSelector: {matchLabels: {app: mine}}\n",
        "no NetworkPolicy for them",
    ),
    ("kuberay.yaml", "policyTypes: [Ingress]", "policyTypes: [Egress]", "no NetworkPolicy for them"),
    ("kuberay.yaml", "- name: ray-head\n", "- name: ray-head\n                ports: [{hostPort: 8265}]\n", "hostPort"),
    ("kuberay.yaml", 'num-cpus: "0"', 'num-cpus: "0", dashboard-host: 10.1.2.3', "its pod's own address"),
    ("kuberay.yaml", 'num-cpus: "0"', 'num-cpus: "0", dashboard-host: $MY_POD_IP', None),
    ("onpremises.yaml", "--dashboard-host=127.0.0.1", "--dashboard-host 10.1.2.3", "listen on 127.0.0.1"),
    # An open security group.
    ("aws.yaml", "SecurityGroupIds: *groups", "KeyName: mine", "SecurityGroupIds is missing"),
    ("aws.yaml", "198.51.100.7/32", "0.0.0.0/0", "everywhere"),
    ("aws.yaml", "198.51.100.7/32", "198.0.0.0/8", "wider"),
    ("aws.yaml", "198.51.100.7/32", "home", "address range"),
    ("aws.yaml", "cache_stopped_nodes: false", "security_group: {GroupName: mine}", "opens SSH to everybody"),
    ("gcp.yaml", "networkInterfaces: *network", "tags: {}", "the default one lets everybody try SSH"),
    # A missing token, or one that others see.
    ("aws.yaml", "export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 PATH", "export PATH", "is missing; export it"),
    ("onpremises.yaml", "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "must ask for a token"),
    ("onpremises.yaml", '"~/.ray/auth_token": *token', '"~/.ray/other": *token', "must be on every machine"),
    ("gcp.yaml", "chmod 600 ~/.ray/auth_token", "true", "`chmod 600 ~/.ray/auth_token` is missing"),
    ("gcp.yaml", "export RAY_AUTH_MODE=token", "export RAY_AUTH_TOKEN=abc RAY_AUTH_MODE=token", "stay in its file"),
    ("kuberay.yaml", "mode: token", "mode: disabled", "authOptions.mode is not token"),
    ("slurm.sh", "export RAY_AUTH_MODE=token", "export PATH", "RAY_AUTH_MODE=token is missing"),
    ("slurm.sh", "umask 077", "umask 022", "its owner's alone"),
    # A key.
    ("aws.yaml", "region: *region", "region: *region\n  aws_credentials: {aws_secret_access_key: x}", "no key"),
    ("gcp.yaml", "project_id: *project", "project_id: *project\n  gcp_credentials: {type: service_account}", "no key"),
    ("aws.yaml", "IamInstanceProfile: *worker_role", "KeyName: mine", "role of its own"),
    ("aws.yaml", "HttpTokens: required", "HttpTokens: optional", "must not leak"),
    # A floating version.
    ("aws.yaml", "ami-0123456789abcdef0", "latest_dlami", "versions must be exact"),
    ("gcp.yaml", "/images/ensemble-tune-20260101", "/images/family/common", "versions must be exact"),
    ("kuberay.yaml", "ensemble-tune:0.1.0", "ensemble-tune:latest", "versions must be exact"),
    ("kuberay.yaml", "ensemble-tune:0.1.0", "ensemble-tune", "name its tag"),
    ("onpremises.yaml", "bash ~/ensemble_tune/install.sh", "pip install ray", "add -c constraints.txt"),
    (
        "onpremises.yaml",
        "bash ~/ensemble_tune/install.sh",
        "pip install --upgrade torch==2.14.1 numpy",
        "add -c constraints.txt",
    ),
    ("onpremises.yaml", "bash ~/ensemble_tune/install.sh", "pip install -c other.txt ray", "add -c constraints.txt"),
    ("onpremises.yaml", "bash ~/ensemble_tune/install.sh", "pip install -c ~/x/constraints.txt ray", None),
    ("onpremises.yaml", "ensemble_tune/constraints.txt", "ensemble_tune/other.txt", "constraints.txt is missing"),
    ("onpremises.yaml", "upscaling_speed: 1.0", "docker: {image: rayproject/ray, container_name: x}", "name its tag"),
    ("kuberay.yaml", 'rayVersion: "2.60.0"', 'rayVersion: "2.51.0"', "rayVersion is 2.51.0"),
    # What is not tried again, or at the wrong place.
    ("kuberay.yaml", "submissionMode: HTTPMode", "backoffLimit: 3", "KubeRay refuses the pair"),
    ("slurm.sh", "scontrol requeue", "true", "nothing runs `scontrol requeue`"),
    ("slurm.sh", "USR1             #", "USR2             #", "no `trap` takes USR1"),
    # What would cost for ever.
    ("aws.yaml", "idle_timeout_minutes: 5", "idle_timeout_minutes: 600", "at most 60"),
    ("kuberay.yaml", "enableInTreeAutoscaling: true", "enableInTreeAutoscaling: false", "idle machines must go"),
    ("slurm.sh", "#SBATCH --requeue", "", "after its wall time"),
]


@pytest.mark.parametrize(("name", "old", "new", "told"), BREAKS)
def test_a_file_that_breaks_a_rule_is_refused_by_it(
    name: str, old: str, new: str, told: str | None, tmp_path: Path
) -> None:
    path = prepare(tmp_path, name)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    broken = check(path).broken
    if told is None:
        assert broken == ()
    else:
        assert any(told in line for line in broken), broken


def test_a_token_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = prepare(tmp_path, "aws.yaml")
    (tmp_path / "auth_token").chmod(0o644)
    assert any("mode 644" in line for line in check(path).broken)
    (tmp_path / "auth_token").unlink()
    assert any("there is none" in line for line in check(path).broken)


def test_a_wheel_or_constraints_that_are_not_there_are_named(tmp_path: Path) -> None:
    path = prepare(tmp_path, "onpremises.yaml", wheel=str(tmp_path / "no.whl"), constraints=str(tmp_path / "else.txt"))
    told = " ".join(check(path).broken)
    assert "no.whl is not; build it" in told and "else.txt is not; mend the path" in told


def test_constraints_of_another_ray_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "constraints.txt"
    other.write_text("ray==2.9.0\n")
    path = prepare(tmp_path, "onpremises.yaml", constraints=str(other))
    assert any("must be the cluster's" in line for line in check(path).broken)


REFUSED = [
    ("provider:", "providers:", "a provider"),
    ("type: local", "type: azure", "valid: aws, gcp, local"),
    ("max_workers", "most_workers", None),
    ("upscaling_speed: 1.0", "upscaling_speed: fast", "Ray's schema"),
    ("upscaling_speed: 1.0", "own_setting: 1", "Ray's schema"),
    ("cluster_name: *cluster_name", "cluster_name: [", "must be YAML"),
    ('install.sh": *install', f'install.sh": {400 * "a"}', "File name too long"),
]


@pytest.mark.parametrize(("old", "new", "told"), [each for each in REFUSED if each[2]])
def test_what_ray_would_refuse_is_refused_in_one_line(old: str, new: str, told: str, tmp_path: Path) -> None:
    path = prepare(tmp_path, "onpremises.yaml")
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=told) as error:
        check(path)
    assert "\n" not in str(error.value)


def test_an_hour_costs_the_head_and_the_dearest_workers_that_may_be_up(tmp_path: Path) -> None:
    prices = {"currency": "USD", "head": 0.5, "small": 1.0, "large": 10.0}
    fleet = check(prepare(tmp_path, "aws.yaml", prices=prices, most_workers=3)).fleet
    assert fleet.most_an_hour() == 0.5 + 3 * 10.0 and fleet.idle_minutes == 5
    assert [(group.name, group.most, group.gpus, group.spot) for group in fleet.groups] == [
        ("head", 1, 0, False),
        ("small", 3, 1, True),
        ("large", 3, 1, True),
    ]


def test_a_missing_price_is_named_and_no_sum_is_made_up(tmp_path: Path) -> None:
    fleet = check(prepare(tmp_path, "gcp.yaml", prices={"currency": "USD", "head": 0.5, "small": 1.0})).fleet
    assert fleet.most_an_hour() is None and fleet.unpriced == ["large"]


def test_the_command_prints_what_would_start_and_what_it_costs(tmp_path: Path) -> None:
    done = ensemble_tune("cluster", "check", str(prepare(tmp_path, "aws.yaml")))
    assert done.returncode == 0 and done.stderr == "", "Ray's own words on its defaults are nobody's to read"
    for part in ("ensemble-tune on aws", "g6.xlarge", "0 to 8", "at most 8 workers", "at most 14.99 USD for machines"):
        assert part in done.stdout, part


def test_of_kubernetes_no_price_is_known_and_none_is_asked_for(tmp_path: Path) -> None:
    done = ensemble_tune("cluster", "check", str(prepare(tmp_path, "kuberay.yaml")))
    assert done.returncode == 0 and done.stderr == "" and "metadata.prices" not in done.stdout
    assert "what an hour costs is not known: a file for Kubernetes names no prices" in done.stdout


def test_every_block_of_commands_of_the_page_is_run_as_it_stands() -> None:
    blocks = re.findall(
        r"^```bash.*?\n(.*?)^```$", (ROOT / "cluster" / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    tests = [(ROOT / "tests" / "cluster" / name).read_text() for name in ("ray_cluster.py", "test_hosts.py")]
    run = {begins for text in tests for begins in re.findall(r'on_the_page\(["\'](.+?)["\']\)', text)}
    left = [block for block in blocks if not any(line.startswith(tuple(run)) for line in block.splitlines())]
    assert len(blocks) == 7 and left == []


def test_the_command_lists_what_is_broken_and_ends_with_2(tmp_path: Path) -> None:
    path = prepare(tmp_path, "onpremises.yaml")
    path.write_text(edited("onpremises.yaml").replace("127.0.0.1", "0.0.0.0"))
    done = ensemble_tune("cluster", "check", str(path))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "must listen on 127.0.0.1" in done.stderr and "mend it, then check it again" in done.stderr


def ensemble_tune(*words: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "ensemble_tune", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
