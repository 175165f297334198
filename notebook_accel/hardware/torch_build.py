"""Which PyTorch is installed and what it was built for, read from its files: it is not imported.

Source: https://github.com/pytorch/pytorch/blob/main/RELEASE.md#pytorch-cuda-support-matrix
"""

from __future__ import annotations

import ast
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

Capability = tuple[int, int]

_VOLTA_DROPPED = (2, 11)  # torch's version; until then builds for CUDA 12.8 had kernels for it
_CUDA_WITH_BLACKWELL = (12, 8)


@dataclass(frozen=True, kw_only=True)
class TorchBuild:
    """An installed PyTorch.

    Attributes:
        version: as it calls itself, "" where there is none.
        cuda: version of CUDA that it was built for, None for another build.
        hip: version of ROCm's HIP, the same.
        xpu: version of Intel's runtime, the same.
    """

    version: str = ""
    cuda: str | None = None
    hip: str | None = None
    xpu: str | None = None

    @staticmethod
    def read(folder: Path | None = None) -> TorchBuild:
        """Look for the PyTorch that this interpreter would import.

        Args:
            folder: of the package; the one that would be imported if left out.

        Example:
            >>> TorchBuild.read(Path("/nowhere")).version
            ''
        """
        try:
            if folder is None:
                spec = importlib.util.find_spec("torch")
                if spec is None or not spec.submodule_search_locations:
                    return TorchBuild()
                folder = Path(spec.submodule_search_locations[0])
            said = _constants((folder / "version.py").read_text())
        except (OSError, SyntaxError, ValueError, ImportError):
            return TorchBuild()
        return TorchBuild(
            version=said.get("__version__") or "", cuda=said.get("cuda"), hip=said.get("hip"), xpu=said.get("xpu")
        )

    @property
    def kind(self) -> str:
        """What it computes on beside the CPU, in words."""
        if self.cuda:
            return f"CUDA {self.cuda}"
        if self.hip:
            return f"ROCm {self.hip}"
        return f"XPU {self.xpu}" if self.xpu else "CPU only"

    def kernels(self) -> tuple[Capability, Capability] | None:
        """Give the lowest and highest compute capability that it has kernels for; None where nobody knows.

        Only the builds of the PyTorch project are known, not those that somebody made.
        """
        released = re.fullmatch(r"(\d+)\.(\d+)\.\d+(\+cu\d+)?", self.version)
        cuda = re.match(r"(\d+)\.(\d+)", self.cuda or "")
        if released is None or cuda is None:
            return None
        torch_version = int(released[1]), int(released[2])
        cuda_version = int(cuda[1]), int(cuda[2])
        if cuda_version < _CUDA_WITH_BLACKWELL:
            return (5, 0), (9, 9)
        has_volta = cuda_version < (13, 0) and torch_version < _VOLTA_DROPPED
        return ((7, 0) if has_volta else (7, 5)), (99, 0)


def _constants(source: str) -> dict[str, str | None]:
    """Give the texts that a module's names are set to."""
    found: dict[str, str | None] = {}
    for statement in ast.parse(source).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
        value = getattr(statement, "value", None)
        if isinstance(value, ast.Constant) and (value.value is None or isinstance(value.value, str)):
            found.update({target.id: value.value for target in targets if isinstance(target, ast.Name)})
    return found
