"""A device that is not the CPU, on a machine that has only a CPU: tensors on it compute here, and mixing them with
ordinary ones is an error, as with CUDA.

Within `second_device()`, `torch.device("meta")` is that device. Forward, backward, indices and `.item()` work; kernels,
autocast and generators of a real accelerator are not imitated.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DEVICE = torch.device("meta")
aten = torch.ops.aten
MAY_MIX = (
    aten.copy_, aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index,
    aten._unsafe_index_put,
)  # fmt: skip
"""operations that take indices, or a source, from the CPU"""


class MixedDevices(RuntimeError):
    """An operation on tensors of two devices."""


class Elsewhere(torch.Tensor):
    """A tensor of the second device; what it holds is on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "Elsewhere":
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE, requires_grad=False,
        )  # fmt: skip
        made.held = held
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Elsewhere({self.held})"

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert a tensor of the second device to numpy; use .cpu() first")

    def __deepcopy__(self, memo: Any) -> "Elsewhere":
        return Elsewhere(self.held.clone())

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The result of an operation; on the second device if its inputs are, or if it was asked for there."""
    kind = func.overloadpacket
    tensors: list[torch.Tensor] = []
    tree_map(lambda one: tensors.append(one) if isinstance(one, torch.Tensor) else None, (args, kwargs))
    here = [one for one in tensors if not isinstance(one, Elsewhere)]
    assert all(one.device.type == "cpu" for one in here), f"{func} met a tensor without data"
    away = len(tensors) > len(here)
    asked = kwargs.get("device")
    if away and kind not in MAY_MIX and any(one.dim() for one in here):
        shapes = [tuple(one.shape) for one in here]
        raise MixedDevices(f"{func}: expected all tensors to be on the same device, but {shapes} are on the CPU")
    if kind is aten.index and not isinstance(args[0], Elsewhere) and away:
        raise MixedDevices(f"{func}: indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    plain = tree_map(lambda one: one.held if isinstance(one, Elsewhere) else one, (args, kwargs))
    found = func(*plain[0], **plain[1])
    if kind is aten._local_scalar_dense:
        return found
    goes = away if asked is None else torch.device(asked) == DEVICE
    if kind in (aten.copy_,):
        goes = isinstance(args[0], Elsewhere)
    if func._schema.is_mutable and args and isinstance(args[0], torch.Tensor) and len(func._schema.returns) == 1:
        return args[0]
    return tree_map(lambda one: Elsewhere(one) if goes and isinstance(one, torch.Tensor) else one, found)


class _Data(TorchFunctionMode):
    """`torch.tensor(data, device=...)` copies data where no operation sees it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        learns = bool(kwargs.get("requires_grad")) and kwargs.pop("requires_grad")
        if func is torch.Tensor.new_tensor and isinstance(args[0], Elsewhere):
            kwargs = {"dtype": args[0].dtype, "device": DEVICE, **kwargs}
            func, args = torch.tensor, args[1:]
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[1], (list, tuple)):
            args = (args[0], _indices(args[1]), *args[2:])
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = torch.device(kwargs.pop("device"))
            args = tree_map(lambda one: one.held if isinstance(one, Elsewhere) else one, args)
            found = func(*args, **kwargs).to(device)
        else:
            found = func(*args, **kwargs)
        return found.requires_grad_() if learns else found


def _indices(given: Any) -> Any:
    """Lists among indices as tensors, which have data."""
    if isinstance(given, list):
        return torch.tensor(given, device="cpu")
    return tuple(torch.tensor(one, device="cpu") if isinstance(one, list) else one for one in given)


class _Factories(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


@contextmanager
def second_device() -> Iterator[torch.device]:
    with mock.patch.object(torch, "autocast", _autocast), _Factories(), _Data():
        yield DEVICE


AUTOCAST = torch.autocast


def _autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
    """Of the second device, which has none: nothing, where it is switched off."""
    if device_type != DEVICE.type:
        return AUTOCAST(device_type, *args, **kwargs)
    assert kwargs.get("enabled") is False
    return nullcontext()


def moved(module: Any, device: torch.device) -> Any:
    """A module on a device, in place; tied weights stay tied."""
    if device != DEVICE:
        return module.to(device)
    known: dict[int, Any] = {}
    for part in module.modules():
        for name, one in part._parameters.items():
            if one is not None and not isinstance(one.data, Elsewhere):
                if id(one) not in known:
                    known[id(one)] = torch.nn.Parameter(Elsewhere(one.detach()), requires_grad=one.requires_grad)
                part._parameters[name] = known[id(one)]
        for name, one in part._buffers.items():
            if one is not None and not isinstance(one, Elsewhere):
                part._buffers[name] = Elsewhere(one.detach())
    return module
