"""Tensors that say they are on a GPU where there is none: mixed devices raise, and each wait of the host is listed."""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch._dynamo  # Before `_make_subclass` is another, which it would refuse.
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
WAITS = {"_local_scalar_dense", "nonzero", "equal", "_linalg_check_errors"}
ANSWERS = {torch.bool: True, torch.int32: 0}


class Fakes(FakeTensorMode):
    """As torch's, also where `torch.cuda.is_available` is made to say that there is a GPU."""

    avoid_device_init = property(lambda self: True)  # type: ignore[assignment]

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == torch.device("meta"):  # What C++ takes a fake tensor's device for.
            kwargs["device"] = GPU
        return super().dispatch(func, types, args, kwargs)


class Waits(TorchDispatchMode):
    """Counts, by the line of this project or of Lightning, what makes the host wait for the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Counter[str]()
        self.kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(self._known, (args, kwargs or {}))
        name, first = func._schema.name.split("::")[1], next(iter(tree_leaves(args)), None)
        on_gpu = any(isinstance(t, Tensor) and t.device.type == "cuda" for t in tree_leaves((args, kwargs)))
        if name in WAITS and on_gpu:
            self._note(name)
            if name == "_local_scalar_dense":
                return ANSWERS.get(first.dtype, 1)
            if name == "nonzero":
                return torch.zeros(1, first.ndim, dtype=torch.long, device=GPU)
            return True if name == "equal" else None
        try:
            out = func(*args, **kwargs)
        except DataDependentOutputException:  # Of the CPU, such as the seed of a loader.
            return ANSWERS.get(first.dtype, 1)
        if name in ("_to_copy", "copy_"):
            source, target = (first, out) if name == "_to_copy" else (args[1], first)
            waits = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
            if source.device.type != target.device.type and waits:
                self._note(f"{source.device.type} → {target.device.type}")
        # `Tensor.to` of the same device and type is none; C++ takes that device for another.
        stays = name == "_to_copy" and (out.device, out.dtype) == (first.device, first.dtype)
        self.kernels += on_gpu and not func.is_view and not stays
        return out

    def _known(self, value: Any) -> Any:
        if isinstance(value, Tensor) and not isinstance(value, FakeTensor) and value.device.type == "meta":
            self._note("cpu → cuda, an index that is a list")
            return torch.empty(value.shape, dtype=value.dtype, device=GPU)
        return value

    def _note(self, what: str) -> None:
        for frame in reversed(traceback.extract_stack()):
            if "/linf/" in frame.filename.split("site-packages")[-1] and "tests" not in frame.filename:
                self.found[
                    f"{what} in {frame.name}, {frame.filename.rpartition('/linf/')[2]}:{frame.lineno}"
                ] += 1
                return
        self.found[f"{what} outside"] += 1


def moved(module: nn.Module) -> nn.Module:
    """The parameters and buffers of a module as fake tensors on the GPU, in place."""
    known: dict[int, Tensor] = {}

    def fake(t: Tensor) -> Tensor:
        if id(t) not in known:
            new = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=GPU)
            known[id(t)] = nn.Parameter(new, t.requires_grad) if isinstance(t, nn.Parameter) else new
        return known[id(t)]

    for part in module.modules():
        for store in (part._parameters, part._buffers):
            store.update({name: fake(t) for name, t in store.items() if t is not None})  # type: ignore[arg-type]
        for name in getattr(part, "_defaults", ()):  # A metric's states.
            part.__dict__[name] = fake(part.__dict__[name])
    return module


def _copied(t: Tensor, memo: dict[int, Any]) -> Tensor:
    new = torch.empty_like(t.detach())
    return memo.setdefault(id(t), nn.Parameter(new, t.requires_grad) if isinstance(t, nn.Parameter) else new)


@contextmanager
def fake_cuda() -> Iterator[Waits]:
    """Everything that asks for a GPU finds one, H100 by its name."""
    made = Tensor._make_subclass
    properties = SimpleNamespace(
        name="H100", major=9, minor=0, total_memory=80 * 2**30, multi_processor_count=132
    )
    lies = {
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.current_device": lambda: 0,
        "torch.cuda.set_device": lambda *_: None,
        "torch.cuda.synchronize": lambda *_: None,
        "torch.cuda.empty_cache": lambda: None,
        "torch.cuda.mem_get_info": lambda *_: (70 * 2**30, 80 * 2**30),
        "torch.cuda.get_device_capability": lambda *_: (9, 0),
        "torch.cuda.get_device_name": lambda *_: "H100",
        "torch.cuda.get_device_properties": lambda *_: properties,
        "pytorch_lightning.accelerators.cuda.CUDAAccelerator.is_available": staticmethod(lambda: True),
        "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
        # The engine asks the driver about devices that C++ sees; Python goes on seeing the GPU.
        "torch.Tensor._make_subclass": lambda cls, t, grad=False, **kw: made(
            cls, t, grad, **kw | {"dispatch_device": False}
        ),
        "torch.Tensor.__deepcopy__": _copied,
        # What C++ takes for another device, whose lists of tensors would get one kernel for each of them.
        "torch.utils._foreach_utils._device_has_foreach_support": lambda device: True,
        "torch.nn.utils.clip_grad._device_has_foreach_support": lambda device: True,
        "torch.utils._foreach_utils._foreach_supported_types": [Tensor, FakeTensor],
        "torch.cuda.Event": mock.Mock,
        "torch.Tensor.pin_memory": lambda self, *_: self,
        "torch.nn.Module._apply": lambda self, fn, recurse=True: self,
        "torchmetrics.Metric._apply": lambda self, fn, recurse=True: self,
    }
    with ExitStack() as stack:
        mode = Fakes(allow_non_fake_inputs=True)
        for name, lie in lies.items():
            stack.enter_context(mock.patch(name, lie))
        stack.enter_context(mode)
        yield stack.enter_context(Waits())


def can_fake_cuda() -> bool:
    """Whether this version of torch lets tensors say that they are on a GPU where there is no driver."""
    try:
        with fake_cuda():
            torch.rand(3, device=GPU) + 1
    except RuntimeError:
        return False
    return True
