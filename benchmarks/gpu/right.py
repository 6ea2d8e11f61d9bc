"""Right? The project's own tests of a device (tests/test_device.py), on this one."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from benchmarks.gpu.kit import Kit


def checks(kit: Kit, until: float) -> Iterator[tuple[str, dict]]:
    """Of each test its name, whether it passed and by how much the device is off."""
    tests = [sys.executable, "-m", "pytest", "-vs", "--tb=line", "-p", "no:cacheprovider", "tests/test_device.py"]
    given = {"env": os.environ | {"FACELIB_DEVICE": kit.device}, "cwd": kit.folder / "code", "text": True}
    run = subprocess.Popen(tests, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, **given)
    timer = threading.Timer(max(0, until - time.monotonic()), os.killpg, (run.pid, 9))
    timer.start()
    name, last = "pytest", ""
    for last in filter(None, map(str.strip, run.stdout)):
        name = last.split("::")[1].split(" ")[0] if "::test_" in last else name
        verdict = last.split(" ")[-1]
        if verdict in ("PASSED", "FAILED", "ERROR"):
            off = last.partition("off by ")[2].removesuffix(verdict)
            yield name, {"right": verdict == "PASSED"} | ({"off by": off.strip()} if off else {})
    timer.cancel()
    if run.wait() not in (0, 1):
        yield name, {"left out": "no time was left" if run.returncode < 0 else last}
