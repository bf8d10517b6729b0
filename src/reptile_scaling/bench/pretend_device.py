"""An accelerator that is none: tensors lie on a device of their own, their values on the CPU.

An operation over both devices raises, as on a GPU. Kernel launches, waits of the host and copies from it are counted,
waits with the line that caused them. The backend's hooks outlive the interpreter, so a program that has imported this
ends with `os._exit`: use it in a process of its own.
"""

import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

KIND = "pretend"
VIEWS = {
    "view", "_unsafe_view", "transpose", "t", "permute", "expand", "slice", "select", "unsqueeze", "squeeze",
    "as_strided", "detach", "alias", "split", "chunk", "unbind", "split_with_sizes", "_reshape_alias", "lift_fresh",
    "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "view_as", "numel", "is_same_size",
    "diagonal",
}  # fmt: skip
"""Operations that launch nothing."""
WAITS = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal",
    "repeat_interleave", "bincount",
}  # fmt: skip
"""Operations whose result's value or shape the host must wait for."""


@dataclass
class Counts:
    """What has been asked of the device since `clear`."""

    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        """Counts anew."""
        for counter in (self.launches, self.waits, self.copies):
            counter.clear()


counts = Counts()


class PretendTensor(torch.Tensor):
    """A tensor on the device."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(
            cls, raw.shape, strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=device(),
            requires_grad=False,
        )  # fmt: skip

    def __init__(self, raw: torch.Tensor) -> None:
        self.raw = raw

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _run(func, args, kwargs or {})


class PretendDevice(TorchDispatchMode):
    """While it is entered, `device="pretend:0"` places tensors on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def register() -> None:
    """Tells torch of the device; once in a process."""
    _setup_privateuseone_for_python_backend(KIND)


def device() -> torch.device:
    """Its only one."""
    return torch.device(f"{KIND}:0")


def move(model: nn.Module) -> nn.Module:
    """Places a model's weights on the device, in place: `Module.to` would swap no wrapper's storage."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(PretendTensor(parameter.data), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = PretendTensor(buffer)
    return model


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket._qualified_op_name.split("::")[-1]
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    here = [x for x in tensors if isinstance(x, PretendTensor)]
    there = [x for x in tensors if not isinstance(x, PretendTensor)]
    target = kwargs.get("device")
    to_here = target is not None and torch.device(target).type == KIND
    if name in ("_to_copy", "_pin_memory"):
        return _copied(func, args, kwargs, here, target, to_here=to_here)
    if not here and not to_here:
        return func(*args, **kwargs)
    _count(name, args, here, there)
    raw_kwargs = tree_map(_raw, kwargs) | ({"device": "cpu"} if to_here else {})
    out = tree_map(_placed, func(*tree_map(_raw, args), **raw_kwargs))
    return return_and_correct_aliasing(func, args, kwargs, out)


def _copied(func: Any, args: Any, kwargs: dict[str, Any], here: list[Any], target: Any, *, to_here: bool) -> Any:
    raw = func(*map(_raw, args), **(kwargs | ({"device": "cpu"} if target is not None else {})))
    if target is not None and here and not to_here:
        counts.waits[f"copy to the host at {_line()}"] += 1
        return raw
    if to_here and not here:
        counts.copies[_line()] += 1
    elif here:
        counts.launches["_to_copy"] += 1
    return PretendTensor(raw) if to_here or here else raw


def _count(name: str, args: Any, here: list[Any], there: list[torch.Tensor]) -> None:
    if name == "copy_" and here and there:
        (counts.copies if isinstance(args[0], PretendTensor) else counts.waits)[f"copy_ at {_line()}"] += 1
    elif here and any(x.dim() > 0 for x in there):
        if not name.startswith("index") and name != "_index_put_impl_":
            raise RuntimeError(f"Expected all tensors on the same device, found {KIND} and cpu in {name} at {_line()}")
        counts.copies[f"{name} at {_line()}"] += 1
    by_mask = name.lstrip("_").startswith("index") and any(x.dtype in (torch.bool, torch.uint8) for x in here)
    if name in WAITS or by_mask:
        counts.waits[f"{name} at {_line()}"] += 1
    if name not in VIEWS:
        counts.launches[name] += 1


def _raw(x: Any) -> Any:
    return x.raw if isinstance(x, PretendTensor) else x


def _placed(x: Any) -> Any:
    return PretendTensor(x) if isinstance(x, torch.Tensor) else x


def _line() -> str:
    """The line of this package that asked."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if "reptile_scaling" in (file := frame.f_code.co_filename) and file != __file__:
            return f"{file.split('reptile_scaling/')[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return "torch"
