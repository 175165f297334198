"""What users hand to an ``Accelerator`` to change how it works: small values, checked where they are made.

Names and meanings are those of Hugging Face Accelerate.
Source: https://huggingface.co/docs/accelerate/package_reference/utilities
"""

from __future__ import annotations

import os
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from notebook_accel.core.lengths import LengthBuckets
from notebook_accel.errors import ConfigError


@dataclass(frozen=True)
class DataLoaderConfiguration:
    """How prepared loaders share their data out.

    Attributes:
        split_batches: let a loader's batch size be that of the whole run, instead of that of every rank.
        dispatch_batches: read on rank 0 alone and send the others their part; None does so where nothing else works.
        even_batches: fill a loader's last round up with samples from its start, so that all ranks get the same.
        use_seedable_sampler: shuffle by ``data_seed`` and the epoch's number alone, whatever else draws numbers.
        data_seed: 0 or more; None takes one from torch's generator.
        non_blocking: do not wait for a batch's copy to the device, where the loader pins its memory.
        use_stateful_dataloader: read by torchdata's loader, so that streams that know their place go on there after a
            resume, instead of being read again.
        pad_last_batch: fill the last, incomplete batch up with samples from the loader's start, on one rank too: all
            batches have one shape then; ``gather_for_metrics`` leaves the padding out again.
        length_buckets: the lengths that batches are padded to.
        seed_batches: let workers draw anew for each batch, in torch's, NumPy's and Python's own generators, from the
            epoch's seed and the batch's number: what a dataset draws is then the same with any number of workers, and
            after a resume in the middle of an epoch. For data that is picked by number; False draws as plain PyTorch
            does, where a resumed epoch's workers begin anew.

    Raises:
        ConfigError: ``pad_last_batch`` without ``even_batches``.

    Example:
        >>> DataLoaderConfiguration(split_batches=True).even_batches
        True
    """

    split_batches: bool = False
    dispatch_batches: bool | None = None
    even_batches: bool = True
    use_seedable_sampler: bool = False
    data_seed: int | None = None
    non_blocking: bool = False
    use_stateful_dataloader: bool = False
    _: KW_ONLY  # what follows is not Accelerate's
    pad_last_batch: bool = False
    length_buckets: LengthBuckets | None = None
    seed_batches: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that exclude each other."""
        if self.pad_last_batch and not self.even_batches:
            what = "pad_last_batch=True fills batches up, even_batches=False forbids it"
            raise ConfigError(what, "leave one of them out")


@dataclass(frozen=True)
class GradientAccumulationPlugin:
    """How gradients are accumulated.

    Attributes:
        num_steps: micro-batches for one optimizer step, 1 or more.
        adjust_scheduler: let a scheduler's ``_step_count`` count the calls while gradients are accumulated, too; its
            rate stands still either way.
        sync_with_dataloader: step at the end of a loader, however full the window is.
        sync_each_batch: exchange gradients on every micro-batch, which takes less memory and more time.
        weight_partial_window: average a loader's last, shorter window over the micro-batches that it holds; False
            divides by ``num_steps``, as Hugging Face Accelerate does.

    Raises:
        ConfigError: ``num_steps`` is not a whole number of 1 or more.

    Example:
        >>> GradientAccumulationPlugin(num_steps=4).weight_partial_window
        True
    """

    num_steps: int
    adjust_scheduler: bool = True
    sync_with_dataloader: bool = True
    sync_each_batch: bool = False
    _: KW_ONLY  # what follows is not Accelerate's
    weight_partial_window: bool = True

    def __post_init__(self) -> None:
        """Refuse a number of steps that is none."""
        steps: object = self.num_steps
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            what = f"gradient_accumulation_steps must be a whole number of 1 or more, not {steps!r}"
            raise ConfigError(what, "1 steps on every batch")


@dataclass
class ProjectConfiguration:
    """Where a project keeps its checkpoints and logs.

    Attributes:
        project_dir: the folder that ``save_state`` writes below.
        logging_dir: the folder for trackers; ``project_dir`` where left out.
        automatic_checkpoint_naming: let ``save_state`` number its folders, ``checkpoints/checkpoint_0`` and on.
        total_limit: how many numbered checkpoints are kept, 1 or more; None keeps all.
        iteration: number of the next checkpoint.
        save_on_each_node: write on the first rank of every machine, where machines share no disk.

    Raises:
        ConfigError: ``total_limit`` or ``iteration`` is out of range.

    Example:
        >>> str(ProjectConfiguration(project_dir="runs").logging_dir)
        'runs'
    """

    project_dir: str | os.PathLike[str] | None = None
    logging_dir: str | os.PathLike[str] | None = None
    automatic_checkpoint_naming: bool = False
    total_limit: int | None = None
    iteration: int = 0
    save_on_each_node: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and let logs lie with the project."""
        if self.total_limit is not None and self.total_limit < 1:
            raise ConfigError(f"total_limit must be 1 or more, not {self.total_limit!r}", "None keeps every checkpoint")
        if self.iteration < 0:
            raise ConfigError(f"iteration must be 0 or more, not {self.iteration!r}", "leave it out to begin at 0")
        self.set_directories(self.project_dir)

    def set_directories(self, project_dir: str | os.PathLike[str] | None = None) -> None:
        """Take ``project_dir``, and let logs lie there unless they have a place.

        Args:
            project_dir: the folder; None leaves everything as it is.
        """
        self.project_dir = None if project_dir is None else Path(project_dir)
        if self.logging_dir is None:
            self.logging_dir = self.project_dir
