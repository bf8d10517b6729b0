"""What this machine's devices are called, hold and can do: the one room that knows kinds of accelerators apart.

Names and memory come through `torch.accelerator`, so cuda (rocm too), mps and xpu are served alike.
"""

import os
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")


def accelerator_names() -> tuple[str, ...]:
    """`cuda:0`, `cuda:1`, … or whatever torch calls the accelerators that are here."""
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        return ()
    return tuple(f"{found.type}:{number}" for number in range(torch.accelerator.device_count()))


def is_accelerator(device: torch.device) -> bool:
    """Whether kernels are launched on it, rather than computed by the cores that launch them."""
    return device.type != "cpu"


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are native."""
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(bool(capabilities.get(unit)) for unit in ("avx512_bf16", "amx_bf16", "bf16"))
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "xpu"


def holds_quantised(device: torch.device) -> bool:
    """Whether bitsandbytes' layers are served there."""
    return device.type == "cuda"


def synchronize(device: torch.device) -> None:
    """Waits for the device, so that a host clock reads what it did."""
    if is_accelerator(device):
        torch.accelerator.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """From now on `peak_memory` counts anew."""
    torch.accelerator.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Bytes the accelerator's allocator had in use at most."""
    return torch.accelerator.max_memory_allocated(device)


def held_memory(device: torch.device) -> int:
    """Bytes that this process holds there: of the allocator on an accelerator, all of the process on the CPU."""
    return torch.accelerator.memory_allocated(device) if is_accelerator(device) else resident_bytes()


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device now; on the CPU as the system and a container's limit allow."""
    if is_accelerator(device):
        free, _ = torch.accelerator.get_memory_info(device)
        return int(free) + torch.accelerator.memory_reserved(device) - torch.accelerator.memory_allocated(device)
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if limit.is_file() and used.is_file() and (most := limit.read_text().strip()).isdecimal():
        free = min(free, int(most) - int(used.read_text()))
    return max(free, 0)


def resident_bytes() -> int:
    """What this process holds in memory now; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.is_file() else 0
