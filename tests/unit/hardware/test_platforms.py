from __future__ import annotations

from pathlib import Path

import pytest

from notebook_accel.hardware.platforms import Platform, platform_here

NOWHERE = Path("/nowhere")


@pytest.mark.parametrize(
    ("variables", "text", "batch"),
    [
        ({}, "this machine", False),
        ({"KAGGLE_USERNAME": "me", "KAGGLE_KEY": "k"}, "this machine", False),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, "Kaggle (Interactive)", False),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch", "COLAB_BACKEND_VERSION": "1"}, "Kaggle (Batch)", True),
        ({"COLAB_RELEASE_TAG": "release-colab"}, "Google Colab", False),
        ({"COLAB_BACKEND_VERSION": "next", "VERTEX_PRODUCT": "COLAB_ENTERPRISE"}, "Google Colab (Enterprise)", False),
        ({"BINDER_SERVICE_HOST": "x", "BINDER_REPO_URL": "a repository"}, "Binder (a repository)", False),
        ({"SAGEMAKER_APP_TYPE": "JupyterLab"}, "Amazon SageMaker (JupyterLab)", False),
        ({"VSCODE_PID": "12"}, "VS Code", False),
    ],
)
def test_platforms_are_told_by_what_their_machines_set(variables: dict[str, str], text: str, batch: bool):
    found = platform_here(variables, NOWHERE, {})
    assert (str(found), found.batch) == (text, batch)


def test_colab_is_told_by_its_module_and_sagemaker_by_its_file(tmp_path: Path):
    assert platform_here({}, NOWHERE, {"google.colab": None}).name == "colab"
    file = tmp_path / "opt/ml/metadata/resource-metadata.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    assert platform_here({}, tmp_path, {}) == Platform(name="sagemaker")
