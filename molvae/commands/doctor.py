"""Command `doctor`: versions, devices, and what this machine can run."""

from __future__ import annotations

import os
import shutil

from molvae.runtime.provenance import PACKAGE, get_git_commit, get_versions


def describe_machine() -> str:
    """Describe the machine and the installation, for a person and for a bug report."""
    import torch

    lines = [f"{name:12} {version}" for name, version in get_versions().items()]
    lines += [
        f"{'commit':12} {get_git_commit() or 'not a checkout'}",
        f"{'package':12} {PACKAGE}",
        f"{'cores':12} {os.cpu_count()}, torch uses {torch.get_num_threads()}",
        f"{'memory':12} {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        f"{'disk':12} {shutil.disk_usage('.').free / 2**30:.0f} GiB free here",
    ]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        lines.append(f"{'GPU':12} {index}: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        lines.append(f"{'GPU':12} none that torch can use: training runs on the CPU")
    return "\n".join(lines)
