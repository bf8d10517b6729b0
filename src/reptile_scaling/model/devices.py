"""What this machine's devices are called, hold and can do: the one room that knows kinds of accelerators apart.

Names and memory come through `torch.accelerator`, so cuda (rocm too), mps and xpu are served alike.
"""

import os
from functools import lru_cache
from pathlib import Path

import torch

from reptile_scaling.errors import InputError

GROUPED_SWITCH = "REPTILE_SCALING_GROUPED"
CGROUP = Path("/sys/fs/cgroup")


def choose_devices(names: tuple[str, ...]) -> tuple[str, ...]:
    """Device names as torch knows them; `auto` is every accelerator, or the CPU. InputError for one that is absent."""
    if names == ("auto",):
        return accelerator_names() or ("cpu",)
    for name in names:
        if names.count(name) > 1 and name != "cpu":
            raise InputError(f"devices lists {name!r} twice: list it once (only cpu can have several workers)")
        here = {"cpu", *accelerator_names()}
        if name not in here:
            raise InputError(
                f"device {name!r} is not on this machine, which has {', '.join(sorted(here))}: use those or auto"
            )
    return names


def choose_dtype(dtype: str, device: str) -> torch.dtype:
    """`auto` is bfloat16 where the device multiplies it natively, else float32."""
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    return torch.bfloat16 if multiplies_bfloat16(torch.device(device)) else torch.float32


def share_threads(n_workers: int) -> None:
    """Gives this process its part of the cores, one thread at least."""
    torch.set_num_threads(max(1, torch.get_num_threads() // n_workers))


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


@lru_cache
def multiplies_grouped(device: torch.device, dtype: torch.dtype, rank: int) -> bool:
    """Whether `grouped_mm` gives there, at this rank, what plain products give; `REPTILE_SCALING_GROUPED=0` says no.

    CUDA has it in bfloat16 where rows are multiples of 16 bytes. **Not run on a GPU yet**: hence the trial.
    """
    if device.type != "cuda" or dtype != torch.bfloat16 or rank % 8 or os.environ.get(GROUPED_SWITCH) == "0":
        return False
    return grouped_product_is_right(device, dtype, rank)


def grouped_product_is_right(device: torch.device, dtype: torch.dtype, rank: int) -> bool:
    """Tries the four products of a low-rank path and its gradients on two tasks of unequal rows."""
    generator = torch.Generator().manual_seed(0)
    x, g, A, B = (
        torch.randn(*shape, generator=generator).to(device, dtype)
        for shape in ((24, 64), (24, 32), (2, rank, 64), (2, rank, 32))
    )
    ends = torch.tensor([9, 24], dtype=torch.int32, device=device)
    product = torch.nn.functional.grouped_mm
    tasks = (slice(0, 9), slice(9, 24))
    try:
        z = product(x, A.transpose(1, 2), offs=ends)
        found = [z, product(z, B, offs=ends), product(z.T, g, offs=ends), product(g, B.transpose(1, 2), offs=ends)]
    except RuntimeError:
        return False
    z_ = torch.cat([x[rows] @ A[t].T for t, rows in enumerate(tasks)])
    expected = [
        z_,
        torch.cat([z_[rows] @ B[t] for t, rows in enumerate(tasks)]),
        torch.stack([z_[rows].T @ g[rows] for rows in tasks]),
        torch.cat([g[rows] @ B[t].T for t, rows in enumerate(tasks)]),
    ]
    return all(bool((a - b).norm() <= 0.03 * b.norm()) for a, b in zip(found, expected, strict=True))


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
