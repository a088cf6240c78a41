"""What this machine has to compute with, and whether what is installed was tested together."""

import importlib.metadata
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement


@dataclass(frozen=True)
class Accelerator:
    """What torch finds."""

    name: str | None
    """None: there is none."""
    free_bytes: int = 0
    total_bytes: int = 0
    trouble: str = ""
    """Why a device that seems to be there cannot be used."""
    is_chosen: bool = True
    """Whether a run takes it that is not told which device to take."""
    count: int = 1
    """Of its kind, numbered from 0."""


def find_accelerator() -> Accelerator:
    """Ask torch for an accelerator, and the system for one that torch does not see."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name, count = torch.cuda.get_device_name(), torch.cuda.device_count()
        return Accelerator(name, free, total, count=count)
    if torch.backends.mps.is_available():
        return Accelerator("Apple GPU", is_chosen=False)
    if Path("/proc/driver/nvidia/version").exists():
        built = torch.version.cuda
        why = (
            f"torch is built for CUDA {built}, which the driver may be too old for"
            if built
            else "the installed torch is a build without CUDA"
        )
        return Accelerator(None, trouble=f"there is an NVIDIA driver, but {why}")
    return Accelerator(None)


def untested_versions() -> list[str]:
    """Return what is installed outside the ranges that this release was tested with.

    Raises:
        importlib.metadata.PackageNotFoundError: if sicsrec itself is not installed.
    """
    faults = []
    python = importlib.metadata.metadata("sicsrec")["Requires-Python"]
    version = ".".join(str(part) for part in sys.version_info[:3])
    if not Requirement(f"python{python}").specifier.contains(version):
        faults.append(f"Python {version}, tested {python}")
    for text in importlib.metadata.requires("sicsrec") or []:
        requirement = Requirement(text)
        is_extra = requirement.marker is not None and "extra" in str(requirement.marker)
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            if not is_extra:
                faults.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            faults.append(f"{requirement.name} {found}, tested {requirement.specifier}")
    return sorted(set(faults))
