"""What a processor can do is read where Linux tells it, and nothing is guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.processor import NoBFloat16, multiplies_bfloat16, name, refuse_without_bfloat16


def cpuinfo(folder: Path, flags: str) -> Path:
    """Two processors, as Linux lists them."""
    one = f"processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: {flags}\nbugs\t\t:\n\n"
    path = folder / "cpuinfo"
    path.write_text(one + one)
    return path


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16"])
def test_either_instruction_multiplies_bfloat16(tmp_path: Path, flag: str) -> None:
    """Among others."""
    path = cpuinfo(tmp_path, f"fpu avx512f {flag} sse")
    assert multiplies_bfloat16(path)
    refuse_without_bfloat16(path)


@pytest.mark.parametrize("flags", ["fpu avx512f", "", "avx512_bf16x xamx_bf16"])
def test_without_them_it_is_refused_in_one_sentence(tmp_path: Path, flags: str) -> None:
    """With what is missing, where it was looked for, and what to do."""
    path = cpuinfo(tmp_path, flags)
    assert not multiplies_bfloat16(path)
    with pytest.raises(NoBFloat16) as refused:
        refuse_without_bfloat16(path)
    assert str(refused.value) == (
        "this processor does not multiply in bfloat16 (neither avx512_bf16 nor amx_bf16 is among "
        f"the flags in {path}): leave out mixed precision, and it serves in float32"
    )


def test_where_nobody_tells_nothing_is_claimed(tmp_path: Path) -> None:
    """As on a system without /proc/cpuinfo."""
    missing = tmp_path / "cpuinfo"
    assert not multiplies_bfloat16(missing)
    assert name(missing) == ""


def test_the_first_processors_name_is_the_machines(tmp_path: Path) -> None:
    """As it is written there."""
    assert name(cpuinfo(tmp_path, "fpu")) == "AMD EPYC"
