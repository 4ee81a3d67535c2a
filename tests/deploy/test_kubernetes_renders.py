"""Every combination of base, overlays and components is what a cluster takes."""

import functools
import json

import jsonschema
import kubernetes_validate
import pytest
import yaml
from manifests import COMBINATIONS, COMPONENTS, K8S, Combination, render

MINORS = ("1.35", "1.37")
"""The oldest minor that these files are for, and the newest."""

CRDS = K8S.parent / "tests/deploy/crds"
EVERY = pytest.mark.parametrize("combination", COMBINATIONS, ids=str)


@functools.cache
def problem(written: str, minor: str) -> str | None:
    """What a cluster of this minor would have against an object, if anything."""
    made = json.loads(written)
    custom = CRDS / f"{made['kind']}.json"
    try:
        if custom.exists():
            jsonschema.validate(made, json.loads(custom.read_text()))
        else:
            kubernetes_validate.validate(made, minor, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return f"{made['kind']} {made['metadata']['name']}: {error.message}"
    return None


@pytest.mark.parametrize("minor", MINORS)
@EVERY
def test_every_object_is_valid(combination, minor):
    """By the API's own schemas, with no field that they do not know."""
    for made in render(combination):
        assert problem(json.dumps(made, sort_keys=True), minor) is None


@EVERY
def test_no_object_is_there_twice(combination):
    """Nor is one outside the namespace."""
    seen = [(made["kind"], made["metadata"]["name"]) for made in render(combination)]
    assert len(seen) == len(set(seen))
    for made in render(combination):
        assert made["kind"] == "Namespace" or made["metadata"]["namespace"] == "hemavision"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "Deploymint"}, "Couldn't find schema"),
        ({"spec": {"replicas": "three"}}, "'three' is not of type 'integer'"),
        ({"spec": {"replica": 3}}, "Additional properties are not allowed"),
    ],
)
def test_a_mistake_in_an_object_is_found(change, said):
    """A kind, a type and a name that are wrong: the schemas are strict."""
    first = next(o for o in render(Combination("base")) if o["kind"] == "Deployment")
    spec = first["spec"] | change.get("spec", {})
    assert said in problem(json.dumps(first | change | {"spec": spec}), MINORS[0])


@pytest.mark.parametrize("path", sorted(CRDS.glob("*.json")), ids=lambda path: path.stem)
def test_a_mistake_in_a_custom_object_is_found(path):
    """The cut-down schemas are strict too, and each is of a kind that is used."""
    objects = [o for c in COMPONENTS for o in render(Combination("base", (c,)))]
    made = next(o for o in objects if o["kind"] == path.stem)
    wrong = made | {"spec": made["spec"] | {"mistyped": True}}
    assert "mistyped" in problem(json.dumps(wrong), MINORS[0])


def test_every_file_is_used():
    """No manifest lies about that no kustomization names."""
    folders = [path.parent for path in K8S.rglob("kustomization.yaml")]
    for folder in folders:
        said = (folder / "kustomization.yaml").read_text()
        others = {path.name for path in folder.iterdir() if path.suffix in (".yaml", ".config")}
        for name in others - {"kustomization.yaml"}:
            assert name in said, folder / name
    for path in K8S.rglob("*.yaml"):
        assert path.parent in folders, path
        assert all(made for made in yaml.safe_load_all(path.read_text())), path


def test_every_component_is_documented():
    """By its folder's name, in the table of k8s/README.md."""
    text = (K8S / "README.md").read_text()
    for component in COMPONENTS:
        assert f"| `{component}` |" in text
