"""What processes use is metered, those that they started included."""

import subprocess
import sys

from loadtest.usage import metered

CHILD = """
import sys, time
print(flush=True)
sys.stdin.readline()
ballast = b"x" * 50_000_000
while time.process_time() < 0.5: pass
print(flush=True)
sys.stdin.readline()
"""
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def test_processor_time_and_memory_of_a_process_and_its_child_are_metered():
    """Half a second of work and 50 MB, both done by the child."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", PARENT], text=True, bufsize=1, **pipes) as process:
        process.stdout.readline()
        with metered([process.pid]) as usage:
            process.stdin.write("\n")
            process.stdout.readline()
        process.stdin.write("\n")
    assert usage.cpu_seconds > 0.2  # a part of the half second is the start
    assert usage.peak_bytes > 50e6


def test_a_process_that_is_gone_uses_nothing():
    """Metering goes on without it."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with metered([process.pid]) as usage:
        pass
    assert (usage.cpu_seconds, usage.peak_bytes) == (0, 0)
