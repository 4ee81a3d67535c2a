"""What every pod of every combination holds to, whatever is in it."""

import pytest
from manifests import SINGLES, container, quantity, render, workloads

EVERY = pytest.mark.parametrize("combination", SINGLES, ids=str)


def pods(combination):
    """The pod specs of a combination."""
    return [made["spec"]["template"]["spec"] for made in workloads(render(combination))]


def containers(combination):
    """Every container of every pod, those that run before the others too."""
    return [
        c for pod in pods(combination) for c in [*pod.get("initContainers", ()), *pod["containers"]]
    ]


def test_there_are_pods():
    """The tests below walk at least the two that serve."""
    for combination in SINGLES:
        assert {c["name"] for c in containers(combination)} >= {"gateway", "tf-serving"}


@EVERY
def test_no_pod_runs_as_root(combination):
    """By number, so that the kubelet need not trust the image; and under the default seccomp."""
    for pod in pods(combination):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] >= 10_000
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)


@EVERY
def test_no_container_can_gain_or_change_anything(combination):
    """No capability, no escalation, and a root that is read-only."""
    for made in containers(combination):
        assert made["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@EVERY
def test_volumes_are_of_kinds_that_restricted_allows(combination):
    """Image volumes among them, which the admission controller takes since 1.33."""
    for pod in pods(combination):
        kinds = {kind for volume in pod["volumes"] for kind in set(volume) - {"name"}}
        assert kinds <= {"configMap", "emptyDir", "image", "secret"}


@EVERY
def test_no_pod_holds_a_token(combination):
    """Each has an account of its own, which has none either, and no links to Services."""
    accounts = {
        made["metadata"]["name"]: made
        for made in render(combination)
        if made["kind"] == "ServiceAccount"
    }
    for pod in pods(combination):
        assert pod["automountServiceAccountToken"] is False
        assert accounts[pod["serviceAccountName"]]["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False


@EVERY
def test_every_container_says_what_it_needs(combination):
    """Processor, memory and disk: requests, and limits no smaller."""
    for made in containers(combination):
        requests, limits = made["resources"]["requests"], made["resources"]["limits"]
        for resource in ("cpu", "memory", "ephemeral-storage"):
            assert 0 < quantity(requests[resource]) <= quantity(limits[resource])


@EVERY
def test_every_image_is_of_a_version(combination):
    """A tag, and not one that moves; of those that are mounted as well."""
    mounted = [
        v["image"]["reference"] for p in pods(combination) for v in p["volumes"] if "image" in v
    ]
    assert bool(mounted) is ("model-image-volume" in combination.components)
    for image in [*mounted, *(made["image"] for made in containers(combination))]:
        tag = image.rpartition("/")[2].partition(":")[2]
        assert tag, image
        assert tag != "latest"


@EVERY
def test_every_container_that_serves_is_probed(combination):
    """When it has started, while it is ready, while it lives; and liveness is the most patient."""
    for workload in workloads(render(combination)):
        made = container(workload)
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(made)
        patience = {
            name: made[name]["periodSeconds"] * made[name]["failureThreshold"]
            for name in ("readinessProbe", "livenessProbe", "startupProbe")
        }
        assert patience["readinessProbe"] < patience["livenessProbe"] < patience["startupProbe"]


@EVERY
def test_a_rollout_takes_no_pod_away_first(combination):
    """A new one is ready before an old one goes, and one at a time may be evicted."""
    for workload in workloads(render(combination)):
        assert workload["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    for made in render(combination):
        if made["kind"] == "PodDisruptionBudget":
            assert made["spec"]["maxUnavailable"] == 1


@EVERY
def test_pods_keep_apart(combination):
    """By machine and by zone, each from its own kind; where they cannot, they run all the same."""
    for workload in workloads(render(combination)):
        pod, own = workload["spec"]["template"]["spec"], workload["spec"]["selector"]
        (apart,) = pod["affinity"]["podAntiAffinity"][
            "preferredDuringSchedulingIgnoredDuringExecution"
        ]
        (spread,) = pod["topologySpreadConstraints"]
        assert apart["podAffinityTerm"]["labelSelector"] == spread["labelSelector"] == own
        assert spread["whenUnsatisfiable"] == "ScheduleAnyway"


@EVERY
def test_the_namespace_takes_no_less(combination):
    """Pod Security `restricted` is enforced on whatever comes into it."""
    (namespace,) = (made for made in render(combination) if made["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
