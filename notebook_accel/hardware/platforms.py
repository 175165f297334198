"""Where the notebook runs, told by what its host leaves in the environment."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PlatformName = Literal["colab", "kaggle", "vscode", "binder", "sagemaker", "plain"]

_TITLES: dict[PlatformName, str] = {
    "colab": "Google Colab",
    "kaggle": "Kaggle",
    "vscode": "VS Code",
    "binder": "Binder",
    "sagemaker": "Amazon SageMaker",
    "plain": "this machine",
}
# Name, variables of which one is enough, and the one that says more.
_SIGNS: tuple[tuple[PlatformName, tuple[str, ...], str], ...] = (
    ("binder", ("BINDER_SERVICE_HOST", "BINDER_LAUNCH_HOST"), "BINDER_REPO_URL"),
    ("sagemaker", ("SAGEMAKER_APP_TYPE", "SAGEMAKER_INTERNAL_IMAGE_URI"), "SAGEMAKER_APP_TYPE"),
    ("vscode", ("VSCODE_PID", "VSCODE_CWD"), ""),
)


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A place where notebooks run.

    Attributes:
        name: which.
        detail: what more is known, "" where nothing is.
        batch: whether nobody looks on while the notebook runs, as far as that is known.

    Example:
        >>> str(Platform(name="kaggle", detail="Interactive"))
        'Kaggle (Interactive)'
    """

    name: PlatformName = "plain"
    detail: str = ""
    batch: bool = False

    def __str__(self) -> str:
        """Say it in words."""
        return _TITLES[self.name] + (f" ({self.detail})" if self.detail else "")


def platform_here(
    variables: Mapping[str, str], root: Path = Path("/"), modules: Mapping[str, object] | None = None
) -> Platform:
    """Tell the platform.

    Args:
        variables: the environment. A laptop has KAGGLE_USERNAME, so only what Kaggle's own machines set counts.
        root: where the system's files lie.
        modules: that are loaded; this interpreter's if left out.

    Example:
        >>> platform_here({"COLAB_RELEASE_TAG": "release-1"}, Path("/nowhere"), {}).name
        'colab'
    """
    loaded = sys.modules if modules is None else modules
    run_type = variables.get("KAGGLE_KERNEL_RUN_TYPE", "")
    if run_type:
        return Platform(name="kaggle", detail=run_type, batch=run_type != "Interactive")
    if "COLAB_RELEASE_TAG" in variables or "COLAB_BACKEND_VERSION" in variables or "google.colab" in loaded:
        enterprise = variables.get("VERTEX_PRODUCT") == "COLAB_ENTERPRISE"
        return Platform(name="colab", detail="Enterprise" if enterprise else "")
    for name, signs, detail in _SIGNS:
        if any(sign in variables for sign in signs):
            return Platform(name=name, detail=variables.get(detail, ""))
    has_metadata = (root / "opt/ml/metadata/resource-metadata.json").is_file()
    return Platform(name="sagemaker") if has_metadata else Platform()
