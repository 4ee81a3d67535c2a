"""What the processor can do, as Linux tells it."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_MULTIPLY_BFLOAT16 = {"avx512_bf16", "amx_bf16"}


class NoBFloat16(ValueError):
    """The processor has no instructions that multiply in bfloat16."""


def multiplies_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether there are instructions for it (AVX512-BF16 or AMX); False where no one tells."""
    return bool(_MULTIPLY_BFLOAT16 & set(_first(cpuinfo, "flags").split()))


def name(cpuinfo: Path = CPUINFO) -> str:
    """What the processor is called; empty where no one tells."""
    return _first(cpuinfo, "model name")


def refuse_without_bfloat16(cpuinfo: Path = CPUINFO) -> None:
    """Nobody is to wait for bfloat16 worked out in float32.

    Raises:
        NoBFloat16: the processor does not multiply in it.
    """
    if not multiplies_bfloat16(cpuinfo):
        raise NoBFloat16(
            "this processor does not multiply in bfloat16 (neither avx512_bf16 nor amx_bf16 is "
            f"among the flags in {cpuinfo}): leave out mixed precision, and it serves in float32"
        )


def _first(cpuinfo: Path, key: str) -> str:
    """The first processor's value of a key."""
    if not cpuinfo.is_file():
        return ""
    for line in cpuinfo.read_text("utf-8").splitlines():
        found, _, value = line.partition(":")
        if found.strip() == key:
            return value.strip()
    return ""
