"""What is declared in the code is named in the documents, and what they name exists."""

import argparse
import re
from dataclasses import fields
from pathlib import Path

import pytest

from gateway.app import create_app
from gateway.metrics import Metrics
from gateway.middleware import ERROR_STATUS
from gateway.settings import CLIENT_ONLY, PREFIX, Settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("*/*.md"),
        *ROOT.glob("serving_config/*/*.md"),
        *ROOT.glob(".github/*.md"),
    )
    if ".venv" not in path.parts
)
GATEWAY = (ROOT / "gateway/README.md").read_text()


@pytest.mark.parametrize("setting", [field.name for field in fields(Settings)])
def test_every_setting_is_documented(setting):
    """By its full name, with its default."""
    assert f"| `{PREFIX}{setting.upper()}` |" in GATEWAY


def test_no_document_names_a_setting_that_does_not_exist():
    """Nobody is sent after a setting that was renamed."""
    known = {PREFIX + field.name.upper() for field in fields(Settings)} | CLIENT_ONLY
    for path in DOCUMENTS:
        for name in re.findall(rf"{PREFIX}[A-Z_]+", path.read_text()):
            assert name in known, f"{path.name}: {name}"


@pytest.mark.parametrize("name", sorted(CLIENT_ONLY))
def test_what_the_console_reads_is_documented(name):
    """By its full name."""
    assert f"`{name}`" in GATEWAY


def test_every_route_is_documented():
    """Method and path, as in the route table."""
    for route in create_app(Settings()).router.routes():
        if route.method not in {"HEAD", "OPTIONS"}:
            assert f"`{route.method} {route.resource.canonical}`" in GATEWAY


def declared_metrics() -> dict[str, tuple[str, ...]]:
    """The labels of each metric of ours, by the name under which Prometheus sees it."""
    suffix = {"counter": "_total"}
    own = [metric for metric in vars(Metrics()).values() if hasattr(metric, "describe")]
    described = [(metric.describe()[0], metric._labelnames) for metric in own]
    return {family.name + suffix.get(family.type, ""): labels for family, labels in described}


def test_every_metric_is_documented_with_its_labels():
    """In the table, in the order of their declaration; and the table has no other."""
    rows = re.findall(r"^\| `(hemavision_\w+)` \|([\w, ]*)\|", GATEWAY, re.MULTILINE)
    table = {name: tuple(re.findall(r"\w+", labels)) for name, labels in rows}
    assert table == declared_metrics()


def test_no_metric_is_missing_from_the_declaration():
    """What is scraped is declared there, or is the client library's own."""
    scraped = {family.name for family in Metrics().registry.collect()}
    own = {name.removesuffix("_total") for name in declared_metrics()}
    assert {name for name in scraped - own if not name.startswith(("process_", "python_"))} == set()


def test_no_document_names_a_metric_that_does_not_exist():
    """Nobody writes a rule for a series that was renamed."""
    names = r"\bhemavision_[a-z_]+_(?:total|seconds|info|ratio)\b"
    for path in DOCUMENTS:
        for name in re.findall(names, path.read_text()):
            assert name in declared_metrics(), f"{path.name}: {name}"


def test_every_problem_is_documented():
    """With its status."""
    for problem in ERROR_STATUS.values():
        assert f"| `{problem.name}` | {problem.status} |" in GATEWAY


def test_every_export_command_is_documented():
    """In the exporter's table."""
    from export.cli import _parser

    (commands,) = (
        action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    text = (ROOT / "export/README.md").read_text()
    for name in commands.choices:
        assert re.search(rf"^\|.*`{name}[ `]", text, re.MULTILINE), name


def test_every_make_target_is_documented():
    """In the README."""
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    text = (ROOT / "README.md").read_text()
    for target in phony[1].split():
        assert f"make {target}" in text, target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(path):
    """Every relative link names a file that is in the repository."""
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target
