"""The house: who may import whom, and that every room is on the plan."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_imports_point_one_way():
    """Import-linter holds every contract of pyproject.toml."""
    linter = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout


def test_every_module_of_the_gateway_has_its_layer():
    """A new module cannot stand outside the order."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = " ".join(linter["contracts"][0]["layers"]).replace("|", " ").split()
    modules = {
        f"gateway.{path.stem}"
        for path in (ROOT / "gateway").iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").is_file()
    }
    assert modules == set(layers)


@pytest.mark.parametrize("package", ["gateway", "export"])
def test_the_packages_docstring_lists_the_modules(package):
    """The reading order names each module once it exists."""
    described = importlib.import_module(package).__doc__
    for path in (ROOT / package).glob("[a-z]*.py"):
        assert f"``{path.stem}``" in described, path.stem


def test_generated_messages_are_up_to_date(tmp_path):
    """serving_pb2.py is what serving.proto gives."""
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-I."),
            *(f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"),
            "gateway/protos/serving.proto",
        ],
        cwd=ROOT,
        check=True,
    )
    for name in ("serving_pb2.py", "serving_pb2.pyi"):
        generated = (tmp_path / "gateway/protos" / name).read_text()
        assert generated == (ROOT / "gateway/protos" / name).read_text()
