"""`model.compile`: the regions of a model that gain by PyTorch's compiler and that it takes in one graph."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.adapters.conversion import converted
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.sites.pyramid import HyperETPixelDecoder
from sam3_hyperet.modeling.sites.site import PyramidAdjustment, SiteAdjustment

_GRAPHS = 64
"""Of a region: one for a single prompt, one for more, each with and without gradients, dropout and autocast, and for
each layout in memory. PyTorch would give up after eight, and stop the run."""


_CLASS = "_uncompiled_class"  # attribute of a class whose forward is compiled: the class that it was made from


def check_compiler() -> None:
    """Raise a ConfigError where PyTorch's compiler lacks what it needs: a C++ compiler, on CUDA Triton and Python.h."""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    missing = [] if shutil.which(compiler) else [f"the C++ compiler {compiler} (install it, or set CXX)"]
    if torch.cuda.is_available():
        from torch.utils._triton import has_triton

        if not has_triton():
            missing.append("a Triton that works with this GPU (pip install triton; it needs compute capability 7.0)")
        header = Path(sysconfig.get_paths()["include"]) / "Python.h"
        if not header.is_file():
            missing.append(f"{header} (install Python's development files, such as python3-dev)")
    if missing:
        raise ConfigError(f"model.compile=true needs {' and '.join(missing)}; or use model.compile=false")


@contextmanager
def compiled_regions(models: Iterable[host.Sam3Image], backend: str = "inductor") -> Iterator[None]:
    """Context in which the models that `build_model(compile=True)` made, and copies of them, run compiled in part.

    Compiled are the decoder's layers, the adjustments of features and, on CUDA, the pixel decoder where prompts do not
    share its work (`inference.mask_head`). Each is compiled when it first runs, and once more for another number of
    prompts. Parameters, their names and hooks stay the same.
    """
    compiling = [model for model in models if vars(model).get("compiles")]  # not of SAM 3's own builder
    with ExitStack() as stack:
        if compiling:
            import torch._dynamo.config

            # what splits graphs for DDP's buckets refuses some of ours in earlier PyTorch; a region is no bucket's size
            settings = {"recompile_limit": _GRAPHS, "optimize_ddp": False}
            stack.enter_context(torch._dynamo.config.patch(settings))
            stack.enter_context(warnings.catch_warnings())
            # the compiler looks at a region's inputs, among which are results of other layers
            warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf", UserWarning)
        for model in compiling:
            replaced: dict[nn.Module, nn.Module] = {}
            for parent, name, module in list(_regions(model)):
                if module not in replaced:
                    replaced[module] = converted(module, _compiled(type(module), backend))  # type: ignore[arg-type]
                stack.callback(parent._modules.__setitem__, name, module)
                parent._modules[name] = replaced[module]
        yield


def _regions(model: host.Sam3Image) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Each region, with its parent and its name there."""
    classes: tuple[type[nn.Module], ...] = (host.TransformerDecoderLayer,)
    if next(model.parameters()).is_cuda:
        classes += (host.PixelDecoder, HyperETPixelDecoder)
    for parent in model.modules():
        for name, module in parent.named_children():
            if type(module) in classes and "forward" not in vars(module):
                yield parent, name, module
    for site in model.modules():
        if isinstance(site, SiteAdjustment | PyramidAdjustment):
            for parent in site.modules():
                for name, module in parent.named_children():
                    if type(module) is HyperET:
                        yield parent, name, module


@cache
def _compiled(cls: type[nn.Module], backend: str) -> type[nn.Module]:
    """A subclass whose forward is compiled, for all modules of the class together."""
    forward = torch.compile(cls.forward, backend=backend, fullgraph=True)
    return type(f"Compiled{cls.__name__}", (cls,), {"forward": forward, "__module__": __name__, _CLASS: cls})


def uncompiled_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module; of one that runs compiled, the class that it has otherwise."""
    found: type[nn.Module] = getattr(type(module), _CLASS, type(module))
    return found
