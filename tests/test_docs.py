"""What is declared in the code is named in the documents, and what they name exists."""

import argparse
import re
from dataclasses import fields
from pathlib import Path

import pytest

from gateway.app import create_app
from gateway.metrics import Metrics
from gateway.middleware import ERROR_STATUS
from gateway.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob(".github/*.md")]
    if ".venv" not in path.parts
)
GATEWAY = (ROOT / "gateway/README.md").read_text()


@pytest.mark.parametrize("setting", [field.name for field in fields(Settings)])
def test_every_setting_is_documented(setting):
    """By its full name, with its default."""
    assert f"| `{PREFIX}{setting.upper()}` |" in GATEWAY


def test_no_document_names_a_setting_that_does_not_exist():
    """Nobody is sent after a setting that was renamed."""
    known = {PREFIX + field.name.upper() for field in fields(Settings)}
    for path in DOCUMENTS:
        for name in re.findall(rf"{PREFIX}[A-Z_]+", path.read_text()):
            assert name in known, f"{path.name}: {name}"


def test_every_route_is_documented():
    """Method and path, as in the route table."""
    for route in create_app(Settings()).router.routes():
        if route.method != "HEAD":
            assert f"`{route.method} {route.resource.canonical}`" in GATEWAY


def test_every_metric_is_documented():
    """By the name under which Prometheus sees it."""
    for metric in Metrics().registry.collect():
        assert f"`{metric.name}" in GATEWAY


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
