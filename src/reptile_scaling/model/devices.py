"""What a process computes on, in which precision, and with how many threads."""

import torch

from reptile_scaling.errors import InputError


def choose_devices(names: tuple[str, ...]) -> tuple[str, ...]:
    """Device names as torch knows them; `auto` is every GPU, or the CPU. InputError for one that is not there."""
    if names == ("auto",):
        return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count())) or ("cpu",)
    for name in names:
        if names.count(name) > 1 and name != "cpu":
            raise InputError(f"devices lists {name!r} twice: list it once (only cpu can have several workers)")
        n_gpus = torch.cuda.device_count()
        here = {"cpu", *(f"cuda:{i}" for i in range(n_gpus))}
        if name not in here:
            raise InputError(
                f"device {name!r} is not on this machine, which has {', '.join(sorted(here))}: use those or auto"
            )
    return names


def choose_dtype(dtype: str, device: str) -> torch.dtype:
    """`auto` is bfloat16 where the device multiplies it natively, else float32."""
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    if device.startswith("cuda"):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(unit) for unit in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if native else torch.float32


def share_threads(n_workers: int) -> None:
    """Gives this process its part of the cores, one thread at least."""
    torch.set_num_threads(max(1, torch.get_num_threads() // n_workers))
