"""Compiling models with ``torch.compile``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import nn

from notebook_accel.backends.compiled import uncompiled
from notebook_accel.errors import ConfigError, NotAvailableError


class DynamoBackend(str, Enum):
    """Backends of ``torch.compile`` by the names that users of Hugging Face Accelerate know."""

    NO = "NO"
    EAGER = "EAGER"
    AOT_EAGER = "AOT_EAGER"
    INDUCTOR = "INDUCTOR"
    CUDAGRAPHS = "CUDAGRAPHS"
    AOT_TS_NVFUSER = "AOT_TS_NVFUSER"
    NVPRIMS_NVFUSER = "NVPRIMS_NVFUSER"
    OFI = "OFI"
    FX2TRT = "FX2TRT"
    ONNXRT = "ONNXRT"
    TENSORRT = "TENSORRT"
    AOT_TORCHXLA_TRACE_ONCE = "AOT_TORCHXLA_TRACE_ONCE"
    TORCHXLA_TRACE_ONCE = "TORCHXLA_TRACE_ONCE"
    IPEX = "IPEX"
    TVM = "TVM"
    HPU_BACKEND = "HPU_BACKEND"


@dataclass(frozen=True)
class TorchDynamoPlugin:
    """How models are compiled; see ``torch.compile``.

    Attributes:
        backend: a ``DynamoBackend`` or its name.
        mode: such as "reduce-overhead".
        fullgraph: raise where the model cannot be one graph.
        dynamic: compile for changing shapes; None lets torch find out.
        options: of the backend.
        disable: compile nothing.
        use_regional_compilation: compile repeated blocks on their own; not built.

    Raises:
        ConfigError: an unknown backend.
        NotAvailableError: ``use_regional_compilation``.

    Example:
        >>> TorchDynamoPlugin(backend="inductor").backend.name
        'INDUCTOR'
    """

    backend: DynamoBackend | str = DynamoBackend.INDUCTOR
    mode: str | None = None
    fullgraph: bool = False
    dynamic: bool | None = None
    options: Mapping[str, Any] | None = None
    disable: bool = False
    use_regional_compilation: bool = False

    def __post_init__(self) -> None:
        """Bring the backend's name into its form."""
        name = self.backend.value if isinstance(self.backend, DynamoBackend) else str(self.backend).upper()
        if name not in DynamoBackend.__members__:
            known = ", ".join(backend.value.lower() for backend in DynamoBackend)
            raise ConfigError(f"unknown dynamo_backend {self.backend!r}", f"use one of {known}")
        if self.use_regional_compilation:
            what = "use_regional_compilation is not built"
            raise NotAvailableError(what, "compile the repeated blocks yourself, with block.compile()")
        object.__setattr__(self, "backend", DynamoBackend(name))

    @property
    def is_on(self) -> bool:
        """Whether models are compiled."""
        return self.backend is not DynamoBackend.NO

    def compiled(self, model: nn.Module) -> nn.Module:
        """Give ``model`` compiled at its first call; as it is where nothing is to be compiled, or it is already."""
        assert isinstance(self.backend, DynamoBackend)
        if not self.is_on or uncompiled(model) is not model:
            return model
        compiled = torch.compile(
            model,
            backend=self.backend.value.lower(),
            mode=self.mode,
            fullgraph=self.fullgraph,
            dynamic=self.dynamic,
            options=None if self.options is None else dict(self.options),
            disable=self.disable,
        )
        assert isinstance(compiled, nn.Module)
        return compiled


def plugin_from(backend: object, plugin: object) -> TorchDynamoPlugin:
    """Give how models are compiled, said by a name or by a plugin.

    Args:
        backend: a name or a ``DynamoBackend``; None compiles nothing.
        plugin: a ``TorchDynamoPlugin``, or None.

    Raises:
        ConfigError: both are given, or the plugin is none.
    """
    if plugin is None:
        return TorchDynamoPlugin(backend="no" if backend is None else backend)  # type: ignore[arg-type]  # checked there
    if not isinstance(plugin, TorchDynamoPlugin):
        raise ConfigError(f"dynamo_plugin is {plugin!r}", "pass a TorchDynamoPlugin")
    if backend is not None:
        raise ConfigError("dynamo_backend and dynamo_plugin both say how to compile", "say it once, in the plugin")
    return plugin
