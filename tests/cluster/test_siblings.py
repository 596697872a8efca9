"""cluster/aws.yaml, gcp.yaml and kuberay.yaml, by what can check them without a cloud.

Ray's own steps before a cloud is called, and its autoscaler; Amazon's API as moto has it, Google's
as its client library describes it, Kubernetes' as kubernetes-validate has it.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml

from search.cli.main import parse
from tests.cluster.siblings import BLANK, CLUSTER, FILLED, MARK, ROOT, filled, text

CLOUDS = ["aws.yaml", "gcp.yaml"]


def read(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(filled(name))
    return config


def ray_job() -> dict[str, Any]:
    job: dict[str, Any] = list(yaml.safe_load_all(filled("kuberay.yaml")))[1]
    return job


# ---- what is to be filled in ----


@pytest.mark.parametrize("name", FILLED)
def test_each_line_to_fill_in_is_marked_and_each_marked_line_is_to_be_filled_in(name: str) -> None:
    for line in text(name).splitlines():
        value, _, _ = line.partition(MARK)
        assert (BLANK in value) == (MARK in line), line
    values = [line.partition(MARK)[0] for line in filled(name).splitlines()]
    assert not any(BLANK in value for value in values)
    assert len(values) < 90, "short"


# ---- the search that each starts ----


def search_command(name: str) -> list[str]:
    if name == "kuberay.yaml":
        words = shlex.split(ray_job()["spec"]["entrypoint"])
        assert words[:2] == ["python", "/home/ray/fdan-search/search/run.py"]
        return words[2:]
    pattern = r"search=\((.*?)\)" if name == "slurm.sbatch" else r"search/run\.py -- (.*) \.\.\.$"
    found = re.search(pattern, filled(name), re.MULTILINE)
    assert found
    return shlex.split(found[1])


@pytest.mark.parametrize("name", FILLED)
def test_the_search_of_each_is_one_that_the_search_takes(name: str) -> None:
    options = parse(search_command(name)).options
    assert options["trials"] == 200
    if name in CLOUDS:
        assert (options["gpus_per_trial"], options["concurrent"]) == (1, read(name)["max_workers"])
    if name == "kuberay.yaml":
        (group,) = ray_job()["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        assert (options["gpus_per_trial"], options["concurrent"]) == (1, group["maxReplicas"])


# ---- what they share ----


@pytest.mark.parametrize("name", CLOUDS)
def test_nodes_in_a_cloud_are_set_up_as_those_of_config_yaml(name: str) -> None:
    ours, common = read(name), yaml.safe_load(text("config.yaml"))
    assert ours["file_mounts"] == common["file_mounts"]
    assert ours["rsync_exclude"] == common["rsync_exclude"]
    assert ours["worker_start_ray_commands"] == common["worker_start_ray_commands"]
    assert ours["setup_commands"][-1] == common["setup_commands"][-1]
    assert ours["head_start_ray_commands"][:2] == common["head_start_ray_commands"][:2]
    for command in [*ours["setup_commands"], *ours["head_setup_commands"]]:
        subprocess.run(["bash", "-n", "-c", command], check=True)


# ---- no Ray without a token, no dashboard to the world ----


@pytest.mark.parametrize("name", CLOUDS)
def test_ray_in_a_cloud_has_a_token_and_its_dashboard_no_address(name: str) -> None:
    config = read(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "install.sh" in config["setup_commands"][-1]  # whose line in ~/.bashrc asks for it
    start = config["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in start
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start
    for command in [start, config["worker_start_ray_commands"][-1]]:
        assert "RAY_AUTH_MODE" not in command and "0.0.0.0" not in command


def test_with_the_nodes_environment_ray_does_not_start_without_a_token(tmp_path: Path) -> None:
    (tmp_path / "fdan-search").mkdir()
    (tmp_path / "fdan-search" / ".venv").symlink_to(sys.prefix)
    command = f". {CLUSTER}/environment.sh; ray start --head --temp-dir={tmp_path}/ray --port=0"
    tried = subprocess.run(
        ["bash", "-c", command],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert tried.returncode and "token" in tried.stdout + tried.stderr


def test_ray_on_kubernetes_has_a_token_and_no_address_outside() -> None:
    cluster = ray_job()["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        assert "hostNetwork" not in pod
        # An operator that does not know authOptions drops them; Ray is then not to start open.
        assert all(
            {"name": "RAY_AUTH_MODE", "value": "token"} in c["env"] for c in pod["containers"]
        )
    assert not {"headService", "serviceType", "enableIngress"} & {
        *cluster,
        *cluster["headGroupSpec"],
    }


# ---- Ray: schema, preparation, autoscaler ----


def launched(config: dict[str, Any], demand: dict[str, float], count: int) -> dict[str, int]:
    """The nodes that Ray's autoscaler (v2) starts for `count` waiting trials, beside the head."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    read_config = AutoscalingConfig(config, skip_content_hash=True)
    requests = [ResourceRequestUtil.make(demand) for _ in range(count)]
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=read_config.get_node_type_configs(),
        max_num_nodes=read_config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count(requests),
    )
    reply = ResourceDemandScheduler().schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch}


TRIAL = {"CPU": 1.0, "GPU": 1.0}


def test_ray_reads_gcp_yaml_and_starts_a_machine_for_each_waiting_trial() -> None:
    from ray.autoscaler._private.gcp.config import get_node_type
    from ray.autoscaler._private.util import check_legacy_fields, prepare_config, validate_config

    config = prepare_config(read("gcp.yaml"))
    validate_config(config)
    check_legacy_fields(config)
    for node_type in config["available_node_types"].values():
        assert get_node_type(node_type["node_config"]).value == "compute"
    assert launched(config, TRIAL, 0) == {}
    assert launched(config, TRIAL, 3) == {"worker": 3}
    assert launched(config, TRIAL, 20) == {"worker": 8}


def test_ray_reads_kuberay_yaml_and_starts_a_pod_for_each_waiting_trial() -> None:
    from ray.autoscaler._private.kuberay import autoscaling_config

    job = ray_job()
    cluster = {
        "metadata": {"name": "fdan", "namespace": "fdan"},
        "spec": job["spec"]["rayClusterSpec"],
    }
    config = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)
    assert config["idle_timeout_minutes"] == 10
    assert launched(config, TRIAL, 0) == {}
    assert launched(config, TRIAL, 3) == {"gpu": 3}
    assert launched(config, TRIAL, 20) == {"gpu": 8}


# ---- Amazon: moto stands in for it; boto3 checks each call against Amazon's own description ----


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Amazon's EC2, with Ray's calls going to it; the laptop's home is `tmp_path`."""
    from moto import mock_aws
    from ray.autoscaler._private.aws import config

    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    # Ray waits half a minute for what it has made in Amazon's to be seen there.
    monkeypatch.setattr(config, "time", SimpleNamespace(sleep=lambda seconds: None))
    with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        import boto3

        yield boto3.client("ec2", region_name="eu-central-1")


def up(config: dict[str, Any]) -> dict[str, Any]:
    """All of `ray up` before the head's start."""
    from ray.autoscaler._private.commands import _bootstrap_config

    made: dict[str, Any] = _bootstrap_config(config, no_config_cache=True)
    return made


def machine(config: dict[str, Any], kind: str) -> None:
    """Starts one, as `ray up` and the autoscaler do."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_NODE_NAME

    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    tags = {TAG_RAY_NODE_KIND: kind, TAG_RAY_NODE_NAME: kind}
    provider.create_node(config["available_node_types"][kind]["node_config"], tags, 1)


def test_ray_up_gets_the_machines_of_aws_yaml(amazon: Any) -> None:
    config = up(read("aws.yaml"))
    # The head's own: on the head itself, the autoscaler reads the rest.
    config["available_node_types"]["head"]["node_config"].update(config.pop("head_node"))
    assert config["available_node_types"]["worker"]["resources"]["GPU"] == 1  # as Amazon says
    assert launched(copy.deepcopy(config), TRIAL, 0) == {}
    assert launched(copy.deepcopy(config), TRIAL, 3) == {"worker": 3}
    assert launched(copy.deepcopy(config), TRIAL, 20) == {"worker": 8}

    for kind in ("head", "worker"):
        machine(config, kind)
    found = [i for r in amazon.describe_instances()["Reservations"] for i in r["Instances"]]
    head, worker = found
    assert (head["InstanceType"], head.get("InstanceLifecycle")) == ("m7i.xlarge", None)
    assert (worker["InstanceType"], worker["InstanceLifecycle"]) == ("g6.2xlarge", "spot")
    assert head["IamInstanceProfile"] and "IamInstanceProfile" not in worker
    volumes = amazon.describe_volumes()["Volumes"]
    assert [(volume["Size"], volume["Encrypted"]) for volume in volumes] == [(150, True)] * 2

    groups = {group["GroupId"] for instance in found for group in instance["SecurityGroups"]}
    (group,) = amazon.describe_security_groups(GroupIds=[*groups])["SecurityGroups"]
    assert group["GroupName"] == "fdan"
    open_to_others = [rule for rule in group["IpPermissions"] if not rule["UserIdGroupPairs"]]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in open_to_others] == [(22, 22)]
    (within,) = [rule for rule in group["IpPermissions"] if rule not in open_to_others]
    assert [pair["GroupId"] for pair in within["UserIdGroupPairs"]] == [group["GroupId"]]
    (key,) = (Path.home() / ".ssh").iterdir()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_an_image_not_filled_in_is_refused_by_amazon_and_an_unknown_setting_by_boto3(
    amazon: Any,
) -> None:
    from botocore.exceptions import ParamValidationError

    config = up(read("aws.yaml"))
    node = config["available_node_types"]["worker"]["node_config"]
    node["InstanceMarketOptions"] = {"MarketTyp": "spot"}
    with pytest.raises(ParamValidationError, match="MarketTyp"):
        machine(config, "worker")
    blank = yaml.safe_load(text("aws.yaml"))
    with pytest.raises(BaseException, match=r"FILL-IN|region"):
        up(blank)


# ---- Google: its client library has the description of its API with it ----


def google() -> tuple[Any, dict[str, Any]]:
    """Its Compute Engine's client, which sends nothing, and the schema of a machine in it."""
    import googleapiclient
    from googleapiclient.discovery import build_from_document

    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    document = json.loads((folder / "compute.v1.json").read_text())

    def strict(part: dict[str, Any]) -> dict[str, Any]:
        """As JSON Schema has it, and with unknown properties refused."""
        if "$ref" in part:
            return {"$ref": f"#/definitions/{part['$ref']}"}
        read: dict[str, Any] = {
            key: part[key] for key in ("type", "enum", "pattern") if key in part
        }
        if part.get("type") == "any":
            return {}
        if "items" in part:
            read["items"] = strict(part["items"])
        if "properties" in part:
            read["properties"] = {key: strict(value) for key, value in part["properties"].items()}
        if part.get("type") == "object":
            read["additionalProperties"] = strict(part.get("additionalProperties", {})) or False
        return read

    schemas = {name: strict(schema) for name, schema in document["schemas"].items()}
    client = build_from_document(document, developerKey="none")
    return client, {"$ref": "#/definitions/Instance", "definitions": schemas}


def test_google_knows_each_setting_of_gcp_yamls_machines() -> None:
    client, schema = google()
    check = jsonschema.Draft7Validator(schema).validate
    config = read("gcp.yaml")
    provider = config["provider"]
    for name, node_type in config["available_node_types"].items():
        node = node_type["node_config"]
        check(node)
        where = {"project": provider["project_id"], "zone": provider["availability_zone"]}
        request = client.instances().insert(body={**node, "name": name}, **where)
        assert json.loads(request.body)["machineType"] == node["machineType"]
    worker = config["available_node_types"]["worker"]["node_config"]
    assert worker["scheduling"]["provisioningModel"] == "SPOT"
    with pytest.raises(jsonschema.ValidationError, match="provisioningModl"):
        check({"scheduling": {"provisioningModl": "SPOT"}})
    with pytest.raises(jsonschema.ValidationError, match="CHEAP"):
        check({"scheduling": {"provisioningModel": "CHEAP"}})


# ---- Kubernetes ----

# Fields of KubeRay's that a RayJob has here: of its CustomResourceDefinition, in 1.5.1 to 1.7.0. No
# package has that file, so a new field is to be looked up there, and put here.
KUBERAY = {
    "": {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "rayClusterSpec"},
    "rayClusterSpec": {
        *("rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions"),
        *("headGroupSpec", "workerGroupSpecs"),
    },
    "authOptions": {"mode"},
    "autoscalerOptions": {"version", "idleTimeoutSeconds"},
    "headGroupSpec": {"rayStartParams", "template"},
    "workerGroupSpecs": {"groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}


def test_kubernetes_takes_the_claim_and_the_pods_of_kuberay_yaml() -> None:
    import kubernetes_validate
    from kubernetes_validate import ValidationError

    claim, job = yaml.safe_load_all(filled("kuberay.yaml"))
    cluster = job["spec"]["rayClusterSpec"]
    pods = [claim]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        template = group["template"]
        pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **template})
        for volume in template["spec"]["volumes"]:
            assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    for resource in pods:
        kubernetes_validate.validate(resource, "1.33", strict=True)
    spoilt = copy.deepcopy(pods[-1])
    spoilt["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(ValidationError, match="volumeMount"):
        kubernetes_validate.validate(spoilt, "1.33", strict=True)


def test_the_ray_job_has_fields_that_kuberay_has_and_the_ray_of_the_constraints() -> None:
    job = ray_job()
    cluster = job["spec"]["rayClusterSpec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) <= KUBERAY[""]
    assert set(cluster) <= KUBERAY["rayClusterSpec"]
    for name in ("authOptions", "autoscalerOptions", "headGroupSpec"):
        assert set(cluster[name]) <= KUBERAY[name]
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= KUBERAY["workerGroupSpecs"]
    version = cluster["rayVersion"]
    assert f"ray=={version}" in (ROOT / "constraints.txt").read_text().splitlines()
