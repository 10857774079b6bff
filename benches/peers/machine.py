"""What a file of figures says of the machine that they were measured on."""

import os
import pathlib
import platform
import subprocess


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def machine():
    text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    fields = [line.split(":", 1) for line in text.splitlines() if ":" in line]
    values = {name.strip(): value.strip() for name, value in fields}
    sets = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile")
    return {
        "processor": values.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "instruction_sets": [name for name in sets if name in values.get("flags", "").split()],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
        "load_before": os.getloadavg()[0],
    }
