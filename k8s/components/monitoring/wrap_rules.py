"""Wrap the rules of serving_config/monitoring as the Prometheus Operator takes them.

    .venv/bin/python k8s/components/monitoring/wrap_rules.py

Kustomize can put a file into a ConfigMap, but not into a custom resource: hence a generated file.
"""

from __future__ import annotations

from pathlib import Path

import yaml

_HERE = Path(__file__).parent
RULES = _HERE.parents[2] / "serving_config/monitoring/rules"
WRAPPED = _HERE / "prometheus-rule.yaml"
_HEAD = """\
# Made of serving_config/monitoring/rules by wrap_rules.py: change them there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: hemavision
"""


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such: kustomize adds empty ones to folded text."""

    def ignore_aliases(self, _: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)


def wrapped() -> str:
    """Return one PrometheusRule with the groups of all files, in the order of their names."""
    read = (yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.yml")))
    groups = [group for rules in read for group in rules["groups"]]
    spec = {"spec": {"groups": groups}}
    return _HEAD + yaml.dump(spec, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)


if __name__ == "__main__":
    WRAPPED.write_text(wrapped())
