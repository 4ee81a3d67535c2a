"""What the manifests say of each other and of the code is so: names, ports, paths, times."""

import functools
import importlib.util
import re
import subprocess
import tomllib
from dataclasses import fields

import pytest
import yaml
from manifests import (
    COMBINATIONS,
    K8S,
    ROOT,
    SINGLES,
    Combination,
    container,
    named,
    of_kind,
    option,
    port,
    quantity,
    render,
    selected,
    workloads,
)

from gateway import contract
from gateway.app import create_app
from gateway.card import read_card
from gateway.metrics import Metrics
from gateway.settings import PREFIX, Settings

EVERY = pytest.mark.parametrize("combination", SINGLES, ids=str)
PAIRS_TOO = pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
production = functools.partial(render, Combination("overlays/production"))
OPERATION = {"/metrics", "/livez", "/readyz"}
"""Routes for the cluster itself, which are not offered to clients."""

DNS_SECONDS = 30
"""How long an address may be remembered: CoreDNS' `ttl` and `cache` as Kubernetes sets it up."""


def environment(workload, files=None):
    """A container's variables, as the kubelet sets them; paths are put under ``files``."""
    made, said = container(workload), {}
    mounted = tuple(m["mountPath"] for m in made["volumeMounts"])
    for variable in made["env"]:
        if "value" in variable:
            value = variable["value"]
            said[variable["name"]] = (
                f"{files}{value}" if files and value.startswith(mounted) else value
            )
        else:
            resource = variable["valueFrom"]["resourceFieldRef"]["resource"].partition(".")
            said[variable["name"]] = str(made["resources"][resource[0]][resource[2]])
    return said


def settings(workload, tmp_path):
    """What the gateway makes of its variables, where the files that they name are there."""
    given = environment(workload, tmp_path)
    for value in given.values():
        if value.startswith(str(tmp_path)) and not value.endswith("/models/hemavision"):
            path = tmp_path.__class__(value)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        elif value.startswith(str(tmp_path)):
            tmp_path.__class__(value, "1").mkdir(parents=True, exist_ok=True)
    return Settings.from_environment(given)


@EVERY
def test_the_gateway_takes_its_settings(combination, tmp_path):
    """Every variable is a setting with a value that it takes, and its files are mounted."""
    gateway = named(render(combination), "Deployment", "gateway")
    known = {PREFIX + field.name.upper() for field in fields(Settings)}
    assert set(environment(gateway)) <= known
    made = settings(gateway, tmp_path)
    assert (made.keys_file is None) is made.insecure
    assert made.port == port(gateway, "http")


@EVERY
def test_every_file_of_the_gateway_is_mounted(combination):
    """What a path names is in a volume, and read-only."""
    made = container(named(render(combination), "Deployment", "gateway"))
    places = [m["mountPath"] for m in made["volumeMounts"] if m.get("readOnly")]
    for variable in made["env"]:
        if variable.get("value", "").startswith("/"):
            assert any(variable["value"].startswith(place) for place in places), variable


@EVERY
def test_the_gateway_has_the_cards_of_what_is_served(combination):
    """As in compose, for without a card no count is corrected; and from where the model is from."""
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["gateway"]
    objects = render(combination)
    gateway, server = (named(objects, "Deployment", name) for name in ("gateway", "tf-serving"))
    folder = environment(gateway)["HEMAVISION_MODELS"]
    assert folder == composed["environment"]["HEMAVISION_MODELS"]
    (mount,) = (m for m in container(gateway)["volumeMounts"] if m["mountPath"] == folder)
    volumes = {v["name"]: v for v in gateway["spec"]["template"]["spec"]["volumes"]}
    if image := volumes[mount["name"]].get("image"):
        assert {"name": mount["name"], "image": image} in server["spec"]["template"]["spec"][
            "volumes"
        ]
    else:
        (fill,) = gateway["spec"]["template"]["spec"]["initContainers"]
        assert fill["volumeMounts"] == [{"name": mount["name"], "mountPath": "/cards"}]
        pod = server["spec"]["template"]["spec"]
        (source,) = pod.get("initContainers", pod["containers"])
        assert fill["image"] == source["image"]


def test_the_cards_are_copied_and_nothing_else(tiny_models, tmp_path):
    """The base's command, twice as after a restart, on a folder that nobody may write."""
    pod = named(render(Combination("base")), "Deployment", "gateway")["spec"]["template"]["spec"]
    (fill,) = pod["initContainers"]
    (tmp_path / "cards").mkdir()
    *shell, script = fill["command"]
    there = script.replace("/models/hemavision", str(tiny_models), 1)
    there = there.replace(" /cards", f" {tmp_path}/cards")
    for _ in range(2):
        subprocess.run([*shell, there], check=True)
    (version,) = (int(path.name) for path in tiny_models.iterdir())
    assert read_card(tmp_path / "cards", version) == read_card(tiny_models, version) is not None
    copied = [path for path in (tmp_path / "cards").rglob("*") if path.is_file()]
    assert [path.relative_to(tmp_path / "cards").as_posix() for path in copied] == [
        f"{version}/{contract.MODEL_CARD_FILE}"
    ]


@EVERY
def test_a_processor_is_asked_for_where_an_image_has_no_other(combination):
    """TensorFlow Serving's is for amd64 alone: who runs it, if only for the cards, needs one."""
    for workload in workloads(render(combination)):
        pod = workload["spec"]["template"]["spec"]
        images = [c["image"] for c in [*pod.get("initContainers", ()), *pod["containers"]]]
        bound = any("hemavision-model" in i or "tensorflow/serving" in i for i in images)
        assert (pod["nodeSelector"] == {"kubernetes.io/arch": "amd64"}) is bound


@EVERY
def test_the_gateway_finds_every_model_server(combination, tmp_path):
    """By the name of a headless Service, at the port on which TensorFlow Serving listens."""
    objects = render(combination)
    host, _, number = settings(
        named(objects, "Deployment", "gateway"), tmp_path
    ).model_server.partition(":")
    service = named(objects, "Service", host)
    assert service["spec"]["clusterIP"] == "None"
    (server,) = selected(objects, {"matchLabels": service["spec"]["selector"]})
    assert number == option(server, "port") == str(port(server, "grpc"))
    assert option(server, "rest_api_port") == str(port(server, "http"))


@EVERY
def test_every_service_leads_to_a_port(combination):
    """Of the pods of one workload; and, behind a headless one, by the same number."""
    objects = render(combination)
    for service in of_kind(objects, "Service"):
        (workload,) = selected(objects, {"matchLabels": service["spec"]["selector"]})
        for one in service["spec"]["ports"]:
            number = port(workload, one["targetPort"])
            assert number
            assert service["spec"].get("clusterIP") != "None" or number == one["port"]


@EVERY
def test_every_selector_matches(combination):
    """Of a workload its own pods, of a budget and a policy somebody's."""
    objects = render(combination)
    for workload in workloads(objects):
        assert selected(objects, workload["spec"]["selector"]) == [workload]
    for made in of_kind(objects, "PodDisruptionBudget"):
        (workload,) = selected(objects, made["spec"]["selector"])
        assert workload["metadata"]["name"] == made["metadata"]["name"]
    for made in of_kind(objects, "NetworkPolicy"):
        assert selected(objects, made["spec"]["podSelector"])


def openings(objects):
    """Who may reach which port: (workload, port, the peer as a policy names it)."""
    for policy in of_kind(objects, "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", ()):
            for workload in selected(objects, policy["spec"]["podSelector"]):
                for one in rule["ports"]:
                    assert port(workload, one["port"]), policy["metadata"]["name"]
                    for peer in rule["from"]:
                        yield workload["metadata"]["name"], one["port"], peer


@EVERY
def test_nothing_passes_that_is_not_allowed(combination):
    """Neither in nor out, for every pod of the namespace."""
    denied = named(render(combination), "NetworkPolicy", "default-deny")["spec"]
    assert denied == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@EVERY
def test_only_the_gateway_reaches_the_model(combination):
    """And over its gRPC alone; the metrics are for Prometheus."""
    objects = render(combination)
    gateway = named(objects, "Deployment", "gateway")
    allowed = {8500: [], 8501: []}
    for name, number, peer in openings(objects):
        if name == "tf-serving":
            allowed[number].append(peer)
    (peer,) = allowed[8500]
    assert "namespaceSelector" not in peer
    assert selected(objects, peer["podSelector"]) == [gateway]
    for peer in allowed[8501]:
        assert peer["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prometheus"}
        assert peer["namespaceSelector"]


@EVERY
def test_every_opening_is_for_somebody(combination):
    """No policy lets all the world in: each peer is named by its namespace, its pods, or both."""
    for _, _, peer in openings(render(combination)):
        assert any(selector.get("matchLabels") for selector in peer.values())


@EVERY
def test_the_gateway_may_call_what_it_calls(combination):
    """The model server's gRPC, and DNS."""
    objects = render(combination)
    (rule,) = named(objects, "NetworkPolicy", "gateway")["spec"]["egress"]
    (peer,) = rule["to"]
    (server,) = selected(objects, peer["podSelector"])
    assert [one["port"] for one in rule["ports"]] == [port(server, "grpc")]
    (dns,) = named(objects, "NetworkPolicy", "dns")["spec"]["egress"]
    assert {(one["protocol"], one["port"]) for one in dns["ports"]} == {("UDP", 53), ("TCP", 53)}


@EVERY
def test_probes_ask_what_they_mean(combination):
    """Liveness never asks after the model: no restart of a gateway brings it back."""
    objects = render(combination)
    gateway = container(named(objects, "Deployment", "gateway"))
    asked = {name: gateway[name]["httpGet"] for name in gateway if name.endswith("Probe")}
    assert {name: (get["path"], get["port"]) for name, get in asked.items()} == {
        "startupProbe": ("/livez", "http"),
        "readinessProbe": ("/readyz", "http"),
        "livenessProbe": ("/livez", "http"),
    }
    server = named(objects, "Deployment", "tf-serving")
    for probe in ("startupProbe", "readinessProbe"):
        assert container(server)[probe]["grpc"]["port"] == port(server, "grpc")
    assert option(server, "enable_grpc_healthcheck_service") == "true"  # else perhaps none
    alive = container(server)["livenessProbe"]["httpGet"]
    assert alive == {"path": f"/v1/models/{contract.MODEL_NAME}", "port": "http"}


@EVERY
def test_a_gateway_has_time_to_drain(combination, tmp_path):
    """It is told not to be ready before it closes, and may finish what it has."""
    workload = named(render(combination), "Deployment", "gateway")
    pod, made = workload["spec"]["template"]["spec"], settings(workload, tmp_path)
    probe = container(workload)["readinessProbe"]
    assert made.drain >= probe["periodSeconds"] * probe["failureThreshold"] + 5  # and to spread it
    assert pod["terminationGracePeriodSeconds"] >= made.drain + made.deadline + 5


def channel(workload):
    """TensorFlow Serving's gRPC channel arguments, as seconds."""
    pairs = (pair.split("=") for pair in option(workload, "grpc_channel_arguments").split(","))
    return {name.removeprefix("grpc."): int(value) / 1000 for name, value in pairs}


@EVERY
def test_a_model_server_outlives_who_still_calls_it(combination, tmp_path):
    """Until DNS has forgotten it, each connection has ended, and the calls in it too."""
    objects = render(combination)
    workload = named(objects, "Deployment", "tf-serving")
    pod, times = workload["spec"]["template"]["spec"], channel(workload)
    slept = container(workload)["lifecycle"]["preStop"]["sleep"]["seconds"]
    calls = times["max_connection_age_grace_ms"]
    assert calls >= settings(named(objects, "Deployment", "gateway"), tmp_path).deadline
    # gRPC draws each connection's age from a tenth more or less
    assert slept >= DNS_SECONDS + 1.1 * times["max_connection_age_ms"] + calls
    assert pod["terminationGracePeriodSeconds"] >= slept + 5
    for probe in ("startupProbe", "livenessProbe"):  # nobody is served by one that failed these
        assert container(workload)[probe]["terminationGracePeriodSeconds"] == 1


@EVERY
def test_threads_are_as_many_as_the_cpus(combination):
    """Of the limit, which is whole, so that no pool is larger than what it runs on."""
    objects = render(combination)
    server, gateway = (named(objects, "Deployment", name) for name in ("tf-serving", "gateway"))
    for flag in ("tensorflow_intra_op_parallelism", "tensorflow_inter_op_parallelism"):
        assert option(server, flag) == "$(CPUS)"
    cpus = container(server)["resources"]["limits"]["cpu"]
    assert environment(server) == {"CPUS": cpus}
    workers = environment(gateway)["HEMAVISION_WORKERS"]
    assert workers == container(gateway)["resources"]["limits"]["cpu"]
    assert cpus.isdigit()
    assert workers.isdigit()


def scaled(objects):
    """The least and the most pods of each workload."""
    sizes = {made["metadata"]["name"]: (1, 1) for made in workloads(objects)}
    for made in of_kind(objects, "HorizontalPodAutoscaler"):
        spec = made["spec"]
        sizes[spec["scaleTargetRef"]["name"]] = (spec["minReplicas"], spec["maxReplicas"])
    for made in of_kind(objects, "ScaledObject"):
        spec = made["spec"]
        sizes[spec["scaleTargetRef"]["name"]] = (spec["minReplicaCount"], spec["maxReplicaCount"])
    return sizes


@EVERY
def test_the_model_servers_have_a_thread_for_every_call(combination, tmp_path):
    """Even the fewest of them for the most gateways: a full one refuses its probes as well."""
    objects = render(combination)
    sizes = scaled(objects)
    calls = settings(named(objects, "Deployment", "gateway"), tmp_path).max_in_flight
    threads = int(option(named(objects, "Deployment", "tf-serving"), "grpc_max_threads"))
    assert sizes["gateway"][1] * calls <= sizes["tf-serving"][0] * threads


@pytest.mark.parametrize("overlay", ["overlays/dev", "overlays/production"])
def test_the_gateways_keep_the_model_servers_busy_and_no_more(overlay, tmp_path):
    """One photograph a core and one on its way, shared out; a further one makes all late."""
    objects = render(Combination(overlay))
    gateway, server = (named(objects, "Deployment", name) for name in ("gateway", "tf-serving"))
    assert "HEMAVISION_MAX_IN_FLIGHT" in environment(gateway)  # a default would count the machine
    gateways, servers = (scaled(objects)[name][0] for name in ("gateway", "tf-serving"))
    wanted = servers * int(container(server)["resources"]["limits"]["cpu"]) + 1
    assert wanted <= gateways * settings(gateway, tmp_path).max_in_flight < wanted + gateways


@EVERY
def test_an_autoscaler_has_its_deployment_to_itself(combination):
    """It is there, it says how many pods it has by none of its own, and none other scales it."""
    objects = render(combination)
    targets = [
        made["spec"]["scaleTargetRef"]["name"]
        for made in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
    ]
    assert len(targets) == len(set(targets))
    for target in targets:
        assert "replicas" not in named(objects, "Deployment", target)["spec"]
    assert all(1 <= least <= most for least, most in scaled(objects).values())


def test_autoscaling_goes_by_metrics_that_there_are(tmp_path):
    """The gateway's own, of this namespace; and there are more pods before a gateway is full."""
    objects = render(Combination("base", ("autoscaling-in-flight",)))
    known = {family.name for family in Metrics().registry.collect()}
    places = settings(named(objects, "Deployment", "gateway"), tmp_path).max_in_flight
    for made in of_kind(objects, "ScaledObject"):
        (trigger,) = made["spec"]["triggers"]
        names = set(re.findall(r"hemavision_\w+", trigger["metadata"]["query"]))
        assert names
        assert names <= known
        assert f'namespace="{made["metadata"]["namespace"]}"' in trigger["metadata"]["query"]
        assert int(trigger["metadata"]["threshold"]) <= places / 2


@EVERY
def test_the_model_servers_files_are_there(combination):
    """Each file that a flag names is in the ConfigMap that is mounted there."""
    objects = render(combination)
    server = named(objects, "Deployment", "tf-serving")
    (mount,) = (m for m in container(server)["volumeMounts"] if m["name"] == "config")
    volumes = {v["name"]: v for v in server["spec"]["template"]["spec"]["volumes"]}
    files = named(objects, "ConfigMap", volumes["config"]["configMap"]["name"])["data"]
    asked = re.findall(rf"={mount['mountPath']}/(\S+)", " ".join(container(server)["args"]))
    assert {"models.config", "monitoring.config"} <= set(asked) <= set(files)


@EVERY
def test_a_model_that_comes_from_elsewhere_is_where_it_is_looked_for(combination):
    """Under the base path of models.config, which names the gateway's model."""
    objects = render(combination)
    (config,) = (
        made["data"]["models.config"]
        for made in of_kind(objects, "ConfigMap")
        if "models.config" in made["data"]
    )
    (name,) = re.findall(r'^ *name: "(.+)"', config, re.MULTILINE)
    (path,) = re.findall(r'base_path: "(.+)"', config)
    assert name == contract.MODEL_NAME
    mounts = container(named(objects, "Deployment", "tf-serving"))["volumeMounts"]
    assert {m["mountPath"] for m in mounts if m["name"] == "model"} <= {path}


@EVERY
def test_labels_that_the_gateway_asks_for_are_given(combination):
    """By models.config, each to a version that it names."""
    objects = render(combination)
    said = environment(named(objects, "Deployment", "gateway"))
    asked = {value for name, value in said.items() if name.endswith("_LABEL")}
    (config,) = (
        m["data"]["models.config"]
        for m in of_kind(objects, "ConfigMap")
        if "models.config" in m["data"]
    )
    given = dict(re.findall(r'version_labels \{ key: "(\w+)" value: (\d+) \}', config))
    assert asked <= set(given)
    assert set(given.values()) <= set(re.findall(r"versions: (\d+)", config))


def test_a_component_in_the_overlays_own_list_finds_its_images():
    """Which the overlay then names as its registry does; on top of the overlay it would not."""
    objects = render(Combination("overlays/production", ("gpu",)))
    image = container(named(objects, "Deployment", "tf-serving"))["image"]
    assert image.partition(":")[0] == "registry.example/hemavision-model-gpu"


@PAIRS_TOO
def test_a_gpu_has_the_server_that_uses_it(combination):
    """And the image that has none of it asks for none."""
    server = container(named(render(combination), "Deployment", "tf-serving"))
    assert ("nvidia.com/gpu" in server["resources"]["limits"]) is ("gpu" in server["image"])


@EVERY
def test_a_gateway_has_the_memory_and_the_disk_that_its_settings_allow(combination, tmp_path):
    """Pictures, uploads and itself in memory; on disk as many zips as are counted at once."""
    workload = named(render(combination), "Deployment", "gateway")
    made, limits = settings(workload, tmp_path), container(workload)["resources"]["limits"]
    itself = 150e6  # gateway/README.md, Settings
    assert quantity(limits["memory"]) >= made.max_decoding + made.max_upload_memory + itself
    volumes = {v["name"]: v for v in workload["spec"]["template"]["spec"]["volumes"]}
    zips = (made.max_in_flight + 1) // 2 * made.max_series_bytes
    room = quantity(volumes["tmp"]["emptyDir"]["sizeLimit"])
    assert zips <= room <= quantity(limits["ephemeral-storage"])


def routes():
    """The paths of the gateway's routes."""
    return {route.resource.canonical for route in create_app(Settings()).router.routes()}


def offered(path, exact, prefixes):
    """Whether a path is let through."""
    return path in exact or any(path.startswith(f"{prefix}/") for prefix in prefixes)


def ingress_paths():
    """What the Ingress lets through: exact paths and prefixes."""
    objects = render(Combination("base", ("ingress",)))
    (rule,) = named(objects, "Ingress", "gateway")["spec"]["rules"]
    paths = rule["http"]["paths"]
    return tuple(
        {p["path"] for p in paths if p["pathType"] == kind} for kind in ("Exact", "Prefix")
    )


def gateway_api_paths():
    """What the HTTPRoute lets through: exact paths and prefixes."""
    objects = render(Combination("base", ("gateway-api",)))
    (rule,) = named(objects, "HTTPRoute", "gateway")["spec"]["rules"]
    paths = [match["path"] for match in rule["matches"]]
    return tuple(
        {p["value"] for p in paths if p["type"] == kind} for kind in ("Exact", "PathPrefix")
    )


@pytest.mark.parametrize("paths", [ingress_paths, gateway_api_paths])
def test_clients_reach_every_route_but_those_of_operation(paths):
    """The metrics tell how many cells of each type a laboratory sees."""
    exact, prefixes = paths()
    for path in routes():
        assert offered(path, exact, prefixes) is (path not in OPERATION), path
    assert exact <= routes()


@pytest.mark.parametrize("component", ["ingress", "gateway-api"])
def test_what_is_in_front_speaks_tls_and_leads_to_the_gateway(component):
    """For one host, which the certificate is for; and it may reach the pods."""
    objects = render(Combination("base", (component,)))
    service = named(objects, "Service", "gateway")
    numbers = {one["name"]: one["port"] for one in service["spec"]["ports"]}
    if component == "ingress":
        made = named(objects, "Ingress", "gateway")["spec"]
        (tls,), (rule,) = made["tls"], made["rules"]
        assert tls["hosts"] == [rule["host"]]
        backends = [path["backend"]["service"] for path in rule["http"]["paths"]]
        reached = {(b["name"], numbers[b["port"]["name"]]) for b in backends}
    else:
        made = named(objects, "Gateway", "hemavision")["spec"]
        listeners = {one["name"]: one for one in made["listeners"]}
        route = named(objects, "HTTPRoute", "gateway")["spec"]
        (parent,), (rule,) = route["parentRefs"], route["rules"]
        assert listeners[parent["sectionName"]]["tls"]["mode"] == "Terminate"
        assert [listeners[parent["sectionName"]]["hostname"]] == route["hostnames"]
        reached = {(b["name"], b["port"]) for b in rule["backendRefs"]}
    assert reached == {("gateway", numbers["http"])}
    assert any(name == "gateway" and number == 8080 for name, number, _ in openings(objects))


def test_what_is_in_front_lets_a_series_through(tmp_path):
    """As long as the gateway takes one. An Ingress cannot say so: its file tells what to set."""
    made = settings(named(production(), "Deployment", "gateway"), tmp_path)
    (rule,) = named(production(), "HTTPRoute", "gateway")["spec"]["rules"]
    assert int(rule["timeouts"]["request"].removesuffix("s")) >= made.series_deadline
    for path in ("components/ingress/ingress.yaml", "README.md"):
        (megabytes,) = re.findall(r"(\d[\d,]*) MB", _about_series((K8S / path).read_text()))
        (seconds,) = re.findall(r"(\d+) s\b", _about_series((K8S / path).read_text()))
        assert int(megabytes.replace(",", "")) * 1e6 > made.max_series_bytes
        assert int(seconds) >= made.series_deadline


def _about_series(text):
    """What is said of a series to who sets up an Ingress controller."""
    (said,) = re.findall(r"a series is up to[^.]*\.", re.sub(r"\n *#? *", " ", text))
    return said


def scraped_by_compose():
    """Job, port, path and what is kept, of each job of prometheus.yml but its own."""
    read = yaml.safe_load((ROOT / "serving_config/monitoring/prometheus.yml").read_text())
    jobs = {job.pop("job_name"): job for job in read["scrape_configs"]}
    del jobs["prometheus"]
    for name, job in jobs.items():
        (found,) = job["dns_sd_configs"]
        kept = [rule["regex"] for rule in job.get("metric_relabel_configs", ())]
        yield name, found["port"], job.get("metrics_path", "/metrics"), kept


def monitored():
    """The same of each ServiceMonitor, with the workload that its Service leads to."""
    objects = production()
    for made in of_kind(objects, "ServiceMonitor"):
        wanted = made["spec"]["selector"]["matchLabels"].items()
        services = of_kind(objects, "Service")
        (service,) = [s for s in services if wanted <= s["metadata"]["labels"].items()]
        (endpoint,) = made["spec"]["endpoints"]
        (target,) = [p for p in service["spec"]["ports"] if p["name"] == endpoint["port"]]
        (job,) = endpoint["relabelings"]
        assert job["targetLabel"] == "job"
        kept = [rule["regex"] for rule in endpoint.get("metricRelabelings", ())]
        (workload,) = selected(objects, {"matchLabels": service["spec"]["selector"]})
        number = port(workload, target["targetPort"])
        yield workload, (job["replacement"], number, endpoint["path"], kept)


def test_prometheus_scrapes_the_same_everywhere():
    """Job, port, path and what is kept, in compose and Kubernetes, for the same rules."""
    assert sorted(scraped_by_compose()) == sorted(job for _, job in monitored())


def test_what_is_scraped_is_served():
    """The gateway's path and port are its own, TensorFlow Serving's are in its configuration."""
    served = {job: (port, path) for job, port, path, _ in scraped_by_compose()}
    number, path = served["hemavision-gateway"]
    assert number == Settings().port
    assert path in routes()
    number, path = served["hemavision-tf-serving"]
    assert f'path: "{path}"' in (ROOT / "serving_config/monitoring.config").read_text()
    server = named(production(), "Deployment", "tf-serving")
    assert option(server, "rest_api_port") == str(number)


def test_prometheus_may_scrape_what_it_finds():
    """A policy lets it to each monitored port, and to no other."""
    opened = {
        (name, number)
        for name, number, peer in openings(production())
        if peer.get("podSelector", {}).get("matchLabels")
        == {"app.kubernetes.io/name": "prometheus"}
    }
    assert opened == {(made["metadata"]["name"], job[1]) for made, job in monitored()}


def test_the_wrapped_rules_are_the_rules():
    """`k8s/components/monitoring/wrap_rules.py` writes them anew."""
    spec = importlib.util.spec_from_file_location(
        "wrap", K8S / "components/monitoring/wrap_rules.py"
    )
    wrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(wrap)
    assert wrap.WRAPPED.read_text() == wrap.wrapped()
    groups = [
        group
        for path in sorted(wrap.RULES.glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    assert groups
    assert named(production(), "PrometheusRule", "hemavision")["spec"]["groups"] == groups


def test_the_alerts_that_failures_raise_are_there():
    """The page of failures names each by its name in the rules."""
    failures = (K8S / "README.md").read_text().partition("## When something fails")[2]
    named_there = set(re.findall(r"`([A-Z][a-z]+[A-Z][A-Za-z]+)`", failures))
    groups = named(production(), "PrometheusRule", "hemavision")["spec"]["groups"]
    alerts = {rule.get("alert") for group in groups for rule in group["rules"]}
    assert named_there
    assert named_there <= alerts


def test_the_gateways_image_has_this_version():
    """The tag is the package's version."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    image = container(named(production(), "Deployment", "gateway"))["image"]
    assert image.rpartition(":")[2] == version


def secrets(made):
    """The names of the Secrets that an object refers to, in the ways that are used here."""
    if isinstance(made, list):
        return {name for part in made for name in secrets(part)}
    if not isinstance(made, dict):
        return set()
    referring = [made.get(key) for key in ("secretRef", "credentials")]
    named_so = {made.get("secretName"), *(r["name"] for r in referring if r)} - {None}
    certificates = {one["name"] for one in made.get("certificateRefs", ())}
    return named_so | certificates | secrets(list(made.values()))


def test_every_secret_is_documented():
    """Who deploys is told to make it."""
    text = (K8S / "README.md").read_text()
    every = {name for combination in SINGLES for name in secrets(list(render(combination)))}
    assert "gateway-keys" in every
    for name in every:
        assert f"`{name}`" in text, name


def test_the_keys_file_is_the_secrets(tmp_path):
    """The README makes the Secret with the very file that the setting names."""
    keys = settings(named(production(), "Deployment", "gateway"), tmp_path).keys_file
    assert f"--from-file={keys.name}" in (K8S / "README.md").read_text()
