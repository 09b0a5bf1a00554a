"""The manifests in config/kubernetes: valid, confined, and who reaches whom in them."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from hubgate.backend.engines import argv
from hubgate.backend.settings import BackendSettings
from hubgate.proxy.settings import ProxySettings, Timeouts
from tests.cases import each
from tests.config.network_policies import Peer, reaches

FOLDER = Path(__file__).parents[2] / "config" / "kubernetes"
OVERLAYS = ["gpu", "demo", "ray"]
# What `hubgate init` makes, and the operator hands to the cluster.
SECRETS = {"hubgate-proxy-keys", "hubgate-backend-keys", "hubgate-metrics-key"}
NAME = "app.kubernetes.io/name"
Object = Mapping[str, Any]


def tool(name: str) -> str:
    """A command of this environment, and no other that is in PATH."""
    return str(Path(sys.executable).with_name(name))


@cache
def rendered(overlay: str) -> str:
    """What `kubectl apply -k` would send."""
    command = [tool("kubectl"), "kustomize", str(FOLDER / "overlays" / overlay)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@cache
def objects(overlay: str) -> list[Any]:
    return list(yaml.safe_load_all(rendered(overlay)))


def of_kind(overlay: str, *kinds: str) -> dict[str, Any]:
    return {one["metadata"]["name"]: one for one in objects(overlay) if one["kind"] in kinds}


def workloads(overlay: str) -> dict[str, Any]:
    """The pods' templates, by the name of what makes them."""
    return {
        name: one["spec"]["template"] for name, one in of_kind(overlay, "Deployment", "StatefulSet").items()
    }


def container(overlay: str, name: str) -> Any:
    (one,) = workloads(overlay)[name]["spec"]["containers"]
    return one


def settings(overlay: str, side: str) -> dict[str, Any]:
    """A configuration as its ConfigMap holds it, without what this version does not know yet."""
    (found,) = (
        one
        for name, one in of_kind(overlay, "ConfigMap").items()
        if name.startswith(f"hubgate-{side}-config-")
    )
    values: dict[str, Any] = yaml.safe_load(found["data"][f"{side}.yaml"])
    return values


@each("overlay", OVERLAYS)
def test_kubernetes_takes_it(tmp_path: Path, overlay: str) -> None:
    """Each object fits the schema of its kind, and has no field that the schema does not have."""
    path = tmp_path / "all.yaml"
    path.write_text(rendered(overlay))
    command = [tool("kubernetes-validate"), "--strict", "--no-warn", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


@each("overlay", OVERLAYS)
def test_the_operator_takes_the_monitors(overlay: str) -> None:
    """What is no kind of Kubernetes' own has a schema here, and every port that it names exists."""
    schema = json.loads(Path(__file__).with_name("podmonitor.schema.json").read_text())
    foreign = [one for one in objects(overlay) if "." in one["apiVersion"].partition("/")[0]]
    foreign = [one for one in foreign if not one["apiVersion"].partition("/")[0].endswith("k8s.io")]
    assert [one["kind"] for one in foreign] == ["PodMonitor"] * 2
    for one in foreign:
        jsonschema.validate(one, schema)
        name = one["spec"]["selector"]["matchLabels"][NAME]
        ports = {port["name"] for port in container(overlay, name)["ports"]}
        for endpoint in one["spec"]["podMetricsEndpoints"]:
            assert endpoint["port"] in ports
            if "authorization" in endpoint:
                assert endpoint["authorization"]["credentials"]["name"] in SECRETS


@each("overlay", OVERLAYS)
def test_each_pod_is_restricted(overlay: str) -> None:
    """The Pod Security Standard `restricted`, a read-only root, and no token of the cluster's API."""
    labels = of_kind(overlay, "Namespace")["hubgate"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, template in workloads(overlay).items():
        pod = template["spec"]
        own = 999 if name == "hubgate-valkey" else 10001
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (own, own)
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        # Else each Service is an environment variable, and those of HUBGATE_… would be settings.
        assert pod["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume] if "volumes" in pod else True
        for one in pod["containers"]:
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in one["resources"]["limits"]


@each("overlay", OVERLAYS)
def test_secrets_are_files(overlay: str) -> None:
    """No secret is in the manifests, an argument or the environment; volumes name the three that are made."""
    assert of_kind(overlay, "Secret") == {}
    used = set()
    for template in workloads(overlay).values():
        for one in template["spec"]["containers"]:
            assert "envFrom" not in one
            sources = [entry["valueFrom"].keys() for entry in one.get("env", ()) if "valueFrom" in entry]
            assert all(keys == {"fieldRef"} for keys in sources)
        for volume in template["spec"].get("volumes", ()):
            if "secret" in volume:
                used.add(volume["secret"]["secretName"])
                assert volume["secret"]["defaultMode"] == 0o440
            if "projected" in volume:
                used |= {source["secret"]["name"] for source in volume["projected"]["sources"]}
                assert volume["projected"]["defaultMode"] == 0o440
    assert used == SECRETS


@each("overlay", OVERLAYS)
def test_what_is_named_is_there(overlay: str) -> None:
    """Volumes, services, budgets and scalers name things of this very overlay."""
    maps, claims = of_kind(overlay, "ConfigMap"), of_kind(overlay, "PersistentVolumeClaim")
    made = workloads(overlay)
    for name, template in made.items():
        pod = template["spec"]
        owner = of_kind(overlay, "Deployment", "StatefulSet")[name]
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        volumes |= {one["metadata"]["name"] for one in owner["spec"].get("volumeClaimTemplates", ())}
        for volume in pod.get("volumes", ()):
            assert volume.get("configMap", {"name": next(iter(maps))})["name"] in maps
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in claims
        for one in pod["containers"]:
            assert {mount["name"] for mount in one.get("volumeMounts", ())} == volumes
    for one in of_kind(overlay, "Service").values():
        (target,) = [t for t in made.values() if one["spec"]["selector"].items() <= labels_of(t).items()]
        ports = target["spec"]["containers"][0]["ports"]
        known = {port["name"] for port in ports} | {port["containerPort"] for port in ports}
        assert {port.get("targetPort", port["port"]) for port in one["spec"]["ports"]} <= known
    for one in of_kind(overlay, "PodDisruptionBudget").values():
        assert one["spec"]["selector"]["matchLabels"][NAME] in made
    (scaler,) = of_kind(overlay, "HorizontalPodAutoscaler").values()
    assert "replicas" not in of_kind(overlay, "Deployment")[scaler["spec"]["scaleTargetRef"]["name"]]["spec"]


def labels_of(template: Object) -> dict[str, str]:
    found: dict[str, str] = template["metadata"]["labels"]
    return found


@each("overlay", OVERLAYS)
def test_a_probe_ends_nothing_that_lives(overlay: str) -> None:
    """Liveness is /livez alone: neither the Hub's outage nor a download restarts a pod."""
    for name, port in (("hubgate-proxy", "admin"), ("hubgate-backend", "control")):
        one = container(overlay, name)
        assert one["livenessProbe"]["httpGet"] == {"path": "/livez", "port": port}
        assert one["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port}


@each("overlay", OVERLAYS)
def test_there_is_time(overlay: str) -> None:
    """For a drain after preStop, and for the first download of a 70B model at 20 MB/s, and its start."""
    proxy = workloads(overlay)["hubgate-proxy"]["spec"]
    drain = settings(overlay, "proxy").get("timeouts", {}).get("drain", Timeouts().drain)
    for pod, most in ((proxy, drain), (workloads(overlay)["hubgate-backend"]["spec"], 60)):
        before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod["terminationGracePeriodSeconds"] >= before + most + 30
    startup = container(overlay, "hubgate-backend")["startupProbe"]
    start = settings(overlay, "backend")["engines"].get("start_timeout", 900)
    download = 140_000 / 20 if overlay != "ray" else 0
    assert startup["periodSeconds"] * startup["failureThreshold"] > download + start


@each("overlay", OVERLAYS)
def test_the_configurations_are_right(overlay: str) -> None:
    """Both load, listen where manifests say, and look for files where they are mounted."""
    proxy, backend = settings(overlay, "proxy"), settings(overlay, "backend")
    (upstream,) = proxy["upstreams"]
    assert upstream["dns"] in of_kind(overlay, "Service")
    assert of_kind(overlay, "Service")[upstream["dns"]]["spec"]["clusterIP"] == "None"
    assert upstream["names"] == "hubgate-backend-*"  # the pods' names, which HUBGATE_NAME makes theirs
    name = {"name": "HUBGATE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    assert name in container(overlay, "hubgate-backend")["env"]
    read = ProxySettings(**proxy)
    assert (read.listen.port, read.admin.port, read.admin.host) == (8080, 8081, "0.0.0.0")
    assert str(read.audit.path.parent) == "/var/lib/hubgate"
    supervisor = BackendSettings(**backend)
    assert (supervisor.listen.port, supervisor.engines.first_port) == (8100, 8200)
    assert supervisor.engines.places <= 100  # ports that the NetworkPolicies open
    assert str(supervisor.store.path).startswith("/var/lib/hubgate/")


def peers(overlay: str) -> Iterator[Peer]:
    for name, template in workloads(overlay).items():
        yield Peer(name.removeprefix("hubgate-"), "hubgate", labels_of(template))
    yield Peer("prometheus", "monitoring", {NAME: "prometheus"})
    yield Peer("grafana", "monitoring", {NAME: "grafana"})
    yield Peer("stranger", "default", {NAME: "hubgate-proxy"})  # who calls itself so in another namespace
    yield Peer("dns", "kube-system", {"k8s-app": "kube-dns"})
    yield Peer("hub", address="52.1.2.3")
    yield Peer("private", address="10.9.9.9")
    yield Peer("metadata", address="169.254.169.254")


PORTS = [53, 22, 80, 443, 6379, 8080, 8081, 8090, 8091, 8099, 8100, 8200, 8299, 8300, 10002]
CALLERS = ("prometheus", "grafana", "stranger", "dns", "hub", "private", "metadata")
EVERYWHERE = {
    **{(who, "proxy"): {8080} for who in CALLERS},  # as callers; the token decides
    ("prometheus", "proxy"): {8080, 8081},
    ("prometheus", "backend"): {8100},
    ("proxy", "backend"): {8100, 8200, 8299},
    ("proxy", "valkey"): {6379},
    ("proxy", "dns"): {53},
    ("backend", "dns"): {53},
    ("valkey", "dns"): {53},
    ("proxy", "hub"): {443},
    ("backend", "hub"): {443},
}
TABLES = {
    "gpu": EVERYWHERE,
    "demo": {
        **EVERYWHERE,
        ("demo-hub", "dns"): {53},
        ("proxy", "demo-hub"): {8090, 8091},
        ("backend", "demo-hub"): {8090, 8091},
    },
    "ray": {
        **EVERYWHERE,
        ("ray-worker", "dns"): {53},
        ("backend", "ray-worker"): set(PORTS),
        ("ray-worker", "backend"): set(PORTS),
        ("ray-worker", "ray-worker"): set(PORTS),
        ("backend", "backend"): set(PORTS),
    },
}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_who_reaches_whom(overlay: str) -> None:
    """The whole table: backends and engines are the proxies' alone, metrics Prometheus'."""
    policies = of_kind(overlay, "NetworkPolicy").values()
    found: dict[tuple[str, str], set[int]] = {}
    for source in peers(overlay):
        for target in peers(overlay):
            if "hubgate" not in (source.namespace, target.namespace):
                continue
            open_ports = {port for port in PORTS if reaches(policies, source, target, port)}
            if open_ports:
                found[source.name, target.name] = open_ports
    assert found == TABLES[overlay]


def test_ray_is_vllms_own() -> None:
    """The engine gets vLLM's flags, one model spans all GPUs, and the driver finds its cluster."""
    supervisor = BackendSettings(**settings("ray", "backend"))
    (model,) = supervisor.engines.preload
    launch = argv.Launch(
        base=f"{model.repo}@{'0' * 40}",
        path=Path("/var/lib/hubgate/store/x"),
        host="0.0.0.0",
        port=8200,
        device=None,
        vllm_args=supervisor.engines.args(model.repo),
        max_loras=8,
        max_cpu_loras=64,
        max_rank=64,
    )
    flags = argv.argv(launch, "vllm")
    given = dict(flag.split("=", 1) for flag in flags if "=" in flag)
    assert given["--distributed-executor-backend"] == "ray"
    tensors, layers = int(given["--tensor-parallel-size"]), int(given["--pipeline-parallel-size"])
    pods = {name: one["spec"]["replicas"] for name, one in of_kind("ray", "StatefulSet").items()}
    gpus = {
        name: pods[name] * int(container("ray", name)["resources"]["limits"]["nvidia.com/gpu"])
        for name in ("hubgate-backend", "hubgate-ray-worker")
    }
    assert sum(gpus.values()) == tensors * layers
    entries = container("ray", "hubgate-backend")["env"]
    environ = {entry["name"]: entry.get("value", "10.0.0.1") for entry in entries}
    kept = argv.environment(launch, environ, home=Path("/h"), identity=Path("/i"), on_cpu=False)
    assert kept["RAY_ADDRESS"] == "127.0.0.1:6379"
    assert kept["VLLM_HOST_IP"] == "10.0.0.1"
    assert kept["VLLM_PLUGINS"] == "hubgate"
    assert "HF_API_TOKEN_FILE" not in kept


def test_ray_ranks_read_the_same_store() -> None:
    """One volume, under one path; the machines beside the head have our plugin, and no key."""
    head, worker = (container("ray", f"hubgate-{name}") for name in ("backend", "ray-worker"))
    mounts = [
        [one["mountPath"] for one in each["volumeMounts"] if one["name"] == "store"]
        for each in (head, worker)
    ]
    assert mounts == [["/var/lib/hubgate"], ["/var/lib/hubgate"]]
    for name in ("hubgate-backend", "hubgate-ray-worker"):
        volumes = workloads("ray")[name]["spec"]["volumes"]
        (store,) = [one for one in volumes if one["name"] == "store"]
        assert store["persistentVolumeClaim"]["claimName"] == "hubgate-store"
    assert head["image"] == worker["image"]
    assert {"name": "VLLM_PLUGINS", "value": "hubgate"} in worker["env"]
    assert not [one for one in worker["volumeMounts"] if "key" in one["name"]]
