"""What a figure needs beside it: versions, and the machine that it was measured on."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def environment() -> dict[str, object]:
    """Return what a figure needs beside it: versions and the machine."""
    packages = {}
    for name in ("shrinknet", "torch", "numpy", "safetensors"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "python": sys.version.split()[0],
        "packages": packages,
        "platform": platform.platform(),
        "processor": _processor(),
        "num_cpus": os.cpu_count(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
