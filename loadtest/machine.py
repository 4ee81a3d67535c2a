"""What machine a measurement was made on, as far as it bears on the figures."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict

import psutil

_FLAGS = {
    "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8",
    "asimd", "asimddp", "bf16", "i8mm", "sve",
}  # fmt: skip
"""The instruction sets that TensorFlow chooses its kernels by, on x86-64 and on ARM."""

_PACKAGES = (
    "tensorflow", "keras", "numpy", "grpcio", "protobuf", "aiohttp", "pillow", "matplotlib",
    "flask", "werkzeug", "fastapi", "uvicorn", "uvloop",
)  # fmt: skip


class Machine(TypedDict):
    """The facts. ``memory_gb`` is in 10^9 bytes, ``load`` the load average of the last minute."""

    architecture: str
    cpu: str
    flags: list[str]
    cores: int
    memory_gb: float
    kernel: str
    python: str
    packages: dict[str, str]
    load: float


def facts() -> Machine:
    """Look them up."""
    cpuinfo = Path("/proc/cpuinfo")
    told = cpuinfo.read_text() if cpuinfo.is_file() else ""
    return {
        "architecture": platform.machine(),
        "cpu": _first(r"model name\s*: (.+)", told) or platform.processor() or "unknown",
        "flags": sorted(_FLAGS & set(_first(r"(?:flags|Features)\s*: (.+)", told).split())),
        "cores": usable_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "load": round(os.getloadavg()[0], 2),
    }


def usable_cores() -> int:
    """Return the cores that this process may use, where the system tells."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def sentence(machine: Machine) -> str:
    """Describe a machine in a line for people."""
    flags = ", ".join(machine["flags"]) or "no flags told"
    return (
        f"{machine['cpu']} ({machine['architecture']}; {flags}), {machine['cores']} cores, "
        f"{machine['memory_gb']:g} GB, Linux {machine['kernel']}, Python {machine['python']}, "
        f"TensorFlow {machine['packages'].get('tensorflow', 'unknown')}, "
        f"load average {machine['load']:g}"
    )


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found.group(1).strip() if found else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
