"""What operators see: the rules fire when they should, and name what is there."""

import http.server
import io
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
import yaml
from PIL import Image

from gateway.settings import Settings

MONITORING = Path(__file__).parents[2] / "serving_config" / "monitoring"
RULES = sorted((MONITORING / "rules").glob("*.yml"))
RULE_TESTS = sorted((MONITORING / "rules" / "tests").glob("*.yml"))
DASHBOARDS = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
README = (MONITORING / "README.md").read_text()
# In the format of tensorflow_serving/util/prometheus_exporter.cc, with the names and labels of
# servables/tensorflow/util.cc (Serving 2.19.1) and cc/saved_model/loader.cc (TensorFlow 2.19.1)
MODEL_SERVER_PAGE = Path(__file__).with_name("tf_serving_metrics.txt").read_bytes()

ELSEWHERE = {
    # google/cadvisor, docs/storage/prometheus.md; the kubelet adds the labels of the pod
    "container_cpu_usage_seconds_total": {"namespace", "pod", "container"},
    "container_cpu_cfs_periods_total": {"namespace", "pod", "container"},
    "container_cpu_cfs_throttled_periods_total": {"namespace", "pod", "container"},
    "container_memory_working_set_bytes": {"namespace", "pod", "container"},
    # kubernetes/kube-state-metrics, docs/metrics/workload/pod-metrics.md
    "kube_pod_container_resource_limits": {"namespace", "pod", "container", "resource", "unit"},
    # cert-manager/cert-manager, pkg/metrics; a scrape that does not honour its labels renames one
    "certmanager_certificate_expiration_timestamp_seconds": {
        "name", "namespace", "exported_namespace",
    },
    # https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/
    "ALERTS": {"alertname", "alertstate", "service", "severity"},
}  # fmt: skip
"""Metrics that no part of the service exposes, with the labels that are used of them."""

_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?(?!\s*\(|[\w:])")
_WORDS = {"and", "or", "unless", "offset", "bool", "e", "Inf", "NaN"}


class Query(NamedTuple):
    """An expression: where it stands, itself, and the labels that its legend shows."""

    place: str
    expression: str
    shown: frozenset[str] = frozenset()

    @property
    def selectors(self) -> list[tuple[str, str]]:
        """Each metric that is named, with its matchers as they are written."""
        bare = re.sub(r"\[[^\]]*\]", "", _GROUPING.sub("", self.expression))
        bare = re.sub(r"offset \w+", "", bare)
        named = re.sub(r'([=~]"[^"]*")|"[^"]*"', r"\1", bare)  # not what label_replace is given
        return [(n, m) for n, m in _SELECTOR.findall(named) if n not in _WORDS and not n.isdigit()]

    @property
    def labels(self) -> set[str]:
        """Each label that is grouped or joined by, or shown."""
        grouped = ",".join(_GROUPING.findall(self.expression))
        return set(re.findall(r"\w+", grouped)) | self.shown


def rules(kind: str) -> list[dict[str, Any]]:
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries() -> Iterator[Query]:
    for rule in [*rules("record"), *rules("alert")]:
        yield Query(rule.get("record") or rule["alert"], rule["expr"])
    for path in DASHBOARDS:
        board = json.loads(path.read_text())
        asked = [(p["title"], target) for p in panels(board) for target in p["targets"]]
        asked += [(note["name"], note) for note in board["annotations"]["list"]]
        for title, target in asked:
            shown = re.findall(r"{{(\w+)}}", target.get("legendFormat", ""))
            expression = target["expr"].replace("$__rate_interval", "1m")
            yield Query(f"{path.stem}: {title}", expression, frozenset(shown))


RECORDED = {rule["record"]: Query(rule["record"], rule["expr"]) for rule in rules("record")}
ALERTS = sorted({rule["alert"] for rule in rules("alert")})
QUERIES = list(queries())


def tool(name: str) -> str:
    """The path of a program; where it is missing the test is skipped, but never in CI."""
    beside = Path(sys.executable).parent
    found = shutil.which(name, path=f"{beside}:{os.environ['PATH']}")
    if found is None:
        missing = f"needs {name}: `make test` fetches it where apt can"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return found


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def until(check: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What a check returns once it is something."""
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)
    return found


# The files, by the tools made for them


def test_prometheus_takes_its_configuration():
    """And all rules, without a warning."""
    run(tool("promtool"), "check", "config", MONITORING / "prometheus.yml")
    checked = run(tool("promtool"), "check", "rules", "--lint=all", "--lint-fatal", *RULES)
    assert "SUCCESS" in checked


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_rules_hold_on_made_up_series(path):
    """Those that fire them, and those that do not."""
    run(tool("promtool"), "test", "rules", path)


def rule_tests() -> list[dict[str, Any]]:
    return [test for path in RULE_TESTS for test in yaml.safe_load(path.read_text())["tests"]]


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_is_seen_firing_and_silent(alert):
    """In the tests above, with each of its windows."""
    expected = [
        case["exp_alerts"]
        for test in rule_tests()
        for case in test.get("alert_rule_test", ())
        if case["alertname"] == alert
    ]
    fired = {one["exp_labels"].get("window") for alerts in expected for one in alerts}
    assert fired == {r["labels"].get("window") for r in rules("alert") if r["alert"] == alert}
    assert [] in expected


def test_each_recorded_series_is_tested():
    """By its name."""
    asked = " ".join(
        case["expr"] for test in rule_tests() for case in test.get("promql_expr_test", ())
    )
    assert [name for name in RECORDED if name not in asked] == []


@pytest.mark.parametrize("rule", rules("alert"), ids=lambda rule: rule["alert"])
def test_each_alert_tells_what_to_do(rule):
    """How urgent it is, what is wrong, with its value, and where its entry stands."""
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["labels"]["service"] == "hemavision"  # Alertmanager may have others' too
    notes = rule["annotations"]
    assert set(notes) == {"summary", "description", "runbook"}
    assert "$value" in notes["description"]
    page = (MONITORING / "README.md").relative_to(MONITORING.parents[1])
    assert notes["runbook"] == f"{page}#{rule['alert'].lower()}"


def test_the_runbook_has_an_entry_for_each_alert_and_no_other():
    """With a first step each."""
    runbook = README.split("\n## Runbook\n")[1].split("\n## ")[0]
    entries = dict(re.findall(r"^### (\w+)\n(.+?)(?=^### |\Z)", runbook, re.MULTILINE | re.DOTALL))
    assert sorted(entries) == ALERTS
    assert [name for name, text in entries.items() if "**First:**" not in text] == []


def test_every_burn_rate_can_be_reached():
    """With an error ratio of less than 1; at another objective it might not."""
    text = " ".join(r["expr"] for r in rules("alert") if r["alert"].startswith("ErrorBudget"))
    rates = [float(rate or 1) for rate in re.findall(r"> (?:([\d.]+) \* )?0\.01\b", text)]
    assert sorted(set(rates)) == [1, 3, 6, 14.4]
    assert max(rates) * 0.01 < 1


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.place)
def test_a_query_is_of_this_service_alone(query):
    """By the metric's name or a label, where a Prometheus has others' series too."""
    jobs = {job["job_name"] for job in configuration()["scrape_configs"]}
    for name, matchers in query.selectors:
        if not name.startswith("hemavision"):
            said = re.findall(r'\b(job|service|namespace|exported_namespace)=~?"([^"]+)"', matchers)
            assert said, f"{name}{matchers}"
            for label, value in said:
                if label == "job":
                    matched = {job for job in jobs if re.fullmatch(value, job)}
                    assert matched, value
                    assert all(job.startswith("hemavision-") for job in matched)
                else:
                    assert value == "hemavision"


# The dashboards


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_one_that_grafana_takes(path):
    """Of Grafana 12's schema, with a data source to choose, and panels that say what they show."""
    board = json.loads(path.read_text())
    assert board["schemaVersion"] == 41
    (variable,) = board["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels(board):
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source["uid"] == f"${{{variable['name']}}}" for source in sources)
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_no_panel_lies_over_another(path):
    """All are within the 24 columns, each field is taken once."""
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(path.read_text())["panels"]:
        at = panel["gridPos"]
        fields = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert max(x for x, _ in fields) < 24
        assert not fields & taken, panel["title"]
        taken |= fields


def test_dashboards_mark_the_target():
    """Latencies are red from the target on, in seconds and in TensorFlow Serving's microseconds."""
    target = Settings().target_ms / 1000
    marks = {"s": target, "µs": target * 1e6}
    latencies = [
        (panel["title"], panel["fieldConfig"]["defaults"])
        for path in DASHBOARDS
        for panel in panels(json.loads(path.read_text()))
        if re.search(r"(duration_seconds|_latency)_(bucket|sum)", panel["targets"][0]["expr"])
        and panel["fieldConfig"]["defaults"]["unit"] in marks
    ]
    assert len(latencies) > 5
    for title, field in latencies:
        red = [s["value"] for s in field["thresholds"]["steps"] if s["color"] == "red"]
        assert red == [marks[field["unit"]]], title


def test_dashboards_have_names_of_their_own():
    """Grafana keeps one of each."""
    boards = [json.loads(path.read_text()) for path in DASHBOARDS]
    for name in ("uid", "title"):
        assert len({board[name] for board in boards}) == len(boards) == 2


def test_kubernetes_gets_the_same_dashboards():
    """As ConfigMaps with the label that Grafana's sidecar looks for."""
    rendered = run(tool("kubectl"), "kustomize", MONITORING)
    maps = list(yaml.safe_load_all(rendered))
    assert all(one["metadata"]["labels"]["grafana_dashboard"] == "1" for one in maps)
    files = {name: text for one in maps for name, text in one["data"].items()}
    assert files == {path.name: path.read_text() for path in DASHBOARDS}


# A real Prometheus, that scrapes a real gateway


class Prometheus(NamedTuple):
    """One that runs."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its HTTP API."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}") as response:
            return json.load(response)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression, now."""
        return self.ask("query", query=expression)["result"]


class Gateway(NamedTuple):
    """One that runs, over TLS."""

    port: int
    authority: Path

    def post(self, path: str, body: bytes) -> int:
        """Status of the reply."""
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}{path}",
            data=body,
            headers={"Content-Type": "application/octet-stream"},
        )
        context = ssl.create_default_context(cafile=str(self.authority))
        try:
            with urllib.request.urlopen(request, context=context) as response:
                return response.status
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code


@contextmanager
def running(command: list[str | Path], log: Path, **variables: str) -> Iterator[subprocess.Popen]:
    with (
        log.open("wb") as file,
        subprocess.Popen(
            command, env=os.environ | variables, stdout=subprocess.PIPE, stderr=file, text=True
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def gateway(model_server, tmp_path_factory) -> Iterator[Gateway]:
    """`hemavision serve`, with a certificate."""
    folder = tmp_path_factory.mktemp("gateway")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "c.pem")
    command = [Path(sys.executable).with_name("hemavision"), "serve"]
    settings = {
        "HEMAVISION_PORT": "0",
        "HEMAVISION_MODEL_SERVER": model_server,
        "HEMAVISION_TLS_CERTIFICATE": str(folder / "c.pem"),
    }
    with running(command, folder / "log", **settings) as process:
        line = process.stdout.readline()
        assert line, (folder / "log").read_text()
        yield Gateway(int(line.rsplit(":", 1)[1]), folder / "ca.pem")


@pytest.fixture(scope="module")
def model_server_page() -> Iterator[int]:
    """The port of what shows TensorFlow Serving's page, which the local model server has not."""
    jobs = {job["job_name"]: job for job in configuration()["scrape_configs"]}
    path = jobs["hemavision-tf-serving"]["metrics_path"]

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == path else 404)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            self.wfile.write(MODEL_SERVER_PAGE)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def configuration() -> dict[str, Any]:
    return yaml.safe_load((MONITORING / "prometheus.yml").read_text())


def at_one_pace(folder: Path) -> list[str]:
    """Copies of the rules, each evaluated at the pace that is common to all."""
    for path in RULES:
        read = yaml.safe_load(path.read_text())
        for group in read["groups"]:
            group.pop("interval", None)
        (folder / path.name).write_text(yaml.safe_dump(read))
    return [str(folder / path.name) for path in RULES]


def scraping(ports: dict[str, int], authority: Path, folder: Path) -> dict[str, Any]:
    """Our configuration, but for the targets' addresses and the pace."""
    config = configuration()
    config["global"] = dict.fromkeys(config["global"], "1s")
    config["rule_files"] = at_one_pace(folder)
    for job in config["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
        if job["job_name"] == "hemavision-gateway":
            job |= {"scheme": "https", "tls_config": {"ca_file": str(authority)}}
    return config


@pytest.fixture(scope="module")
def prometheus(gateway, model_server_page, tmp_path_factory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped all targets."""
    folder = tmp_path_factory.mktemp("prometheus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ports = {
        "hemavision-gateway": gateway.port,
        "hemavision-tf-serving": model_server_page,
        "prometheus": port,
    }
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(scraping(ports, gateway.authority, folder)))
    command = [
        tool("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    server = Prometheus(f"http://127.0.0.1:{port}")

    def all_up() -> bool:
        try:
            return len(server.query("up == 1")) == len(ports)
        except OSError:
            assert process.poll() is None, (folder / "log").read_text()
            return False

    with running(command, folder / "log") as process:
        until(all_up)
        yield server


@pytest.fixture(scope="module")
def watched(prometheus, gateway, jpeg) -> Prometheus:
    """The same, after requests of each kind: answered, abstained from, a series, no picture."""
    grey = io.BytesIO()
    Image.new("RGB", (300, 300), "grey").save(grey, "PNG")
    assert gateway.post("/v1/classify", jpeg) == 200
    assert gateway.post("/v1/heatmap", jpeg) == 200
    assert gateway.post("/v1/classify", grey.getvalue()) == 200
    assert gateway.post("/v1/classify", b"no picture") == 415
    until(lambda: prometheus.query("hemavision_abstentions_total"))
    return prometheus


def labels_of(prometheus: Prometheus, query: Query) -> set[str]:
    """Each label that a series of the query's can have."""
    found = {"version"} if "label_replace" in query.expression else set()
    for name, _ in query.selectors:
        if name in RECORDED:
            found |= labels_of(prometheus, RECORDED[name])
        elif name in ELSEWHERE:
            found |= ELSEWHERE[name]
        else:
            found |= set(prometheus.ask("labels", **{"match[]": name}))
    return found


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.place)
def test_each_query_names_what_there_is(watched, query):
    """It parses; each of its metrics has series that its matchers take, and the labels it uses."""
    watched.query(query.expression)
    assert query.selectors
    for name, matchers in query.selectors:
        if name in ELSEWHERE:
            used = set(re.findall(r"(\w+)\s*[!=]~?", matchers))
            assert used <= ELSEWHERE[name], name
        elif name not in RECORDED:
            assert watched.query(f"count({name}{matchers})"), f"{name}{matchers} has no series"
    assert query.labels <= labels_of(watched, query)


def test_prometheus_evaluates_every_rule(watched):
    """Each has been run, without an error."""

    def evaluated() -> list[dict[str, Any]] | None:
        seen = [rule for group in watched.ask("rules")["groups"] for rule in group["rules"]]
        return seen if all(rule["health"] != "unknown" for rule in seen) else None

    seen = until(evaluated)
    assert {rule["name"] for rule in seen} == set(RECORDED) | set(ALERTS)
    faults = [(r["name"], r.get("lastError")) for r in seen if r["health"] != "ok"]
    assert faults == []


def test_what_a_real_gateway_does_is_recorded(watched, gateway, jpeg):
    """The share that is bad, the version that answers and the servers that have it."""

    def recorded() -> bool:
        assert gateway.post("/v1/classify", jpeg) == 200
        names = (
            "hemavision:photographs_bad:ratio_rate5m",
            'hemavision:model_answering:versions10m{version="1"}',
            'hemavision:model_loaded:replicas{version="1"} == 1',
        )
        return all(watched.query(name) for name in names)

    until(recorded)
    (model,) = watched.query("hemavision_model_available")
    assert model["value"][1] == "1"
    (certificate,) = watched.query("hemavision_certificate_expiry_timestamp_seconds > time()")
    assert certificate["metric"]["peer"] == "http"


def test_a_failed_load_is_seen_on_the_model_servers_page(watched):
    """Prometheus keeps what the rules need of it, and drops TensorFlow's own workings."""

    def firing() -> bool:
        alerts = watched.query('ALERTS{alertname="ModelLoadFailed",alertstate="firing"}')
        return [alert["metric"]["model_path"] for alert in alerts] == ["/models/hemavision/2"]

    until(firing)
    assert b":tensorflow:core:bfc_allocator_delay" in MODEL_SERVER_PAGE
    assert not watched.query('{__name__=~":tensorflow:core:bfc.*"}')
