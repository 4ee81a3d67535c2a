"""The images' Dockerfiles, read without a container engine."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILES = {
    "gateway": ROOT / "gateway/Dockerfile",
    "model": ROOT / "serving_config/Dockerfile",
    "loadtest": ROOT / "loadtest/Dockerfile",
}


def instructions(image: str, name: str) -> list[str]:
    """What follows each instruction of this name, in order."""
    text = DOCKERFILES[image].read_text().replace("\\\n", " ")
    return re.findall(rf"^{name} (.+)$", text, re.MULTILINE)


def words(image: str, name: str) -> list[str]:
    """An instruction in exec form, which needs no shell."""
    (given,) = instructions(image, name)
    made: list[str] = json.loads(given[given.index("[") :])
    return made
