"""Verbs of checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from notebook_accel.core.checkpoints.project import Checkpoints, LoadHook, SaveHook
from notebook_accel.core.kit import Kit
from notebook_accel.core.prepare import unwrapped_model
from notebook_accel.core.weights.saving import Format, save_object, save_weights
from notebook_accel.core.weights.sharding import bytes_of
from notebook_accel.errors import ConfigError


class Saving:
    """Verbs between a run and the disk."""

    _kit: Kit
    _checkpoints: Checkpoints

    def save_state(
        self,
        output_dir: str | os.PathLike[str] | None = None,
        safe_serialization: bool = True,
        *,
        block: bool = True,
    ) -> Path:
        """Save everything that the run goes on from, and give the checkpoint's folder.

        Models, optimizers, schedulers, the loss scaler, registered objects, and of every rank the place in its data,
        its generators and the gradients of a window that has begun. The folder is there when all of it is on the disk,
        and not before; whatever happens meanwhile, the checkpoint before stays as it is.

        Collective: all ranks must call this; they share the writing.

        Args:
            output_dir: the checkpoint's folder; a checkpoint in it is replaced, other files stay. Left out where the
                project numbers its checkpoints.
            safe_serialization: keep weights in the safetensors format; otherwise in torch's own.
            block: return when it is on the disk. False returns when the state has been copied to host memory, which is
                kept for the next time; the next save, ``load_state``, ``wait_for_checkpoint`` and the end of the run
                wait for it and raise what went wrong.

        Raises:
            CheckpointError: it could not be saved on some rank, or the one before that was saved without ``block``.
            ConfigError: there is no folder.

        Example:
            >>> import tempfile
            >>> from notebook_accel import Accelerator
            >>> accelerator, folder = Accelerator(cpu=True), tempfile.mkdtemp()
            >>> model = accelerator.prepare(nn.Linear(2, 1))
            >>> accelerator.load_state(accelerator.save_state(folder))
        """
        return self._checkpoints.save(output_dir, safe=safe_serialization, block=block)

    def load_state(
        self,
        input_dir: str | os.PathLike[str] | None = None,
        load_kwargs: dict[str, Any] | None = None,
        *,
        strict: bool = True,
    ) -> None:
        """Go on from a checkpoint, exactly where it was saved.

        What was prepared and registered then has to be prepared and registered now, in the same order. Loaders go on
        in their epoch: their next pass gives what was left, so no batches are to be skipped by hand; ``loader.epoch``
        tells which epoch that is. Files are checked first, and what cannot be taken over is warned of, such as the
        place in the data when the number of ranks has changed.

        Collective: all ranks must call this.

        Args:
            input_dir: the checkpoint's folder, also one of Hugging Face Accelerate; None takes the newest complete one
                of the project.
            load_kwargs: of no use here: files are read as data, never as code.
            strict: let models hold no other tensors than the checkpoint.

        Raises:
            CheckpointNotFound: there is none.
            CheckpointError: a file is missing, torn or altered, or of something else than what is prepared.
            ConfigError: ``load_kwargs`` asks for something.
        """
        asked = {name: value for name, value in (load_kwargs or {}).items() if (name, value) != ("weights_only", True)}
        if asked:
            what = f"load_state(load_kwargs={asked!r}): files of a checkpoint are read as data only, to the CPU"
            raise ConfigError(what, "leave load_kwargs out")
        self._checkpoints.load(input_dir, strict=strict)

    def resume(self) -> bool:
        """Load the newest complete checkpoint of the project if this run is to go on from one, and tell whether it did.

        A run is, when it was launched with ``resume="auto"``, or started again after a failure. Collective: all ranks
        must call this, after ``prepare`` and before the first batch.

        Raises:
            CheckpointError: the checkpoint is damaged, or of something else than what is prepared.
            ConfigError: there is no ``project_dir``.

        Example:
            >>> import tempfile
            >>> from notebook_accel import Accelerator
            >>> Accelerator(cpu=True, project_dir=tempfile.mkdtemp()).resume()
            False
        """
        if not self._kit.runtime.resumes or self._checkpoints.newest() is None:
            return False
        self._checkpoints.load(None, strict=True)
        return True

    def wait_for_checkpoint(self) -> None:
        """Wait until a checkpoint that is saved without ``block`` is on the disk.

        Raises:
            CheckpointError: it could not be saved.
        """
        self._checkpoints.finish()

    @property
    def save_iteration(self) -> int:
        """Number of the next checkpoint, where the project numbers them."""
        return self._kit.settings.project.iteration

    def register_for_checkpointing(self, *objects: Any) -> None:
        """Let ``save_state`` and ``load_state`` take care of more objects, in the order in which they are registered.

        Rank 0 or any other writes what all ranks hold alike.

        Args:
            objects: each with ``state_dict`` and ``load_state_dict``; the state is plain data, tensors and arrays.

        Raises:
            ConfigError: one has no such methods.

        Example:
            >>> from notebook_accel import Accelerator
            >>> Accelerator(cpu=True).register_for_checkpointing(nn.Linear(1, 1))
        """
        without = [
            type(one).__name__
            for one in objects
            if not all(callable(getattr(one, name, None)) for name in ("state_dict", "load_state_dict"))
        ]
        if without:
            what = f"register_for_checkpointing: {', '.join(without)} has no state_dict() and load_state_dict()"
            raise ConfigError(what, "give it both, or save what it holds yourself")
        self._kit.prepared.custom.extend(objects)

    def register_save_state_pre_hook(self, hook: SaveHook) -> RemovableHandle:
        """Call a function on every rank before a state is saved, and give a handle whose ``remove`` ends that.

        Args:
            hook: gets the prepared models, their state dicts, and the folder that is being written, in which it may
                put files of its own; state dicts that it takes out of the list are not written.
        """
        return self._checkpoints.add_save_hook(hook)

    def register_load_state_pre_hook(self, hook: LoadHook) -> RemovableHandle:
        """Call a function on every rank before a state is loaded, and give a handle whose ``remove`` ends that.

        Args:
            hook: gets the prepared models and the checkpoint's folder; models that it takes out of the list are not
                loaded.
        """
        return self._checkpoints.add_load_hook(hook)

    def get_state_dict(self, model: nn.Module, unwrap: bool = True) -> dict[str, Any]:
        """Give the weights of a model.

        Args:
            model: prepared or not.
            unwrap: under the names that they had before it was prepared.
        """
        return dict((unwrapped_model(model, self._kit) if unwrap else model).state_dict())

    def save_model(
        self,
        model: nn.Module,
        save_directory: str | os.PathLike[str],
        max_shard_size: int | str = "10GB",
        safe_serialization: bool = True,
    ) -> None:
        """Save the weights of a model on their own, as other libraries of the field read them.

        Rank 0 writes them. Where they take several files the ranks share the work, and this is collective: all ranks
        must call it. Tied weights are kept once.

        Args:
            model: prepared or not.
            save_directory: the folder; files of weights in it are replaced, others stay.
            max_shard_size: of a file: bytes, or a text such as "5GB".
            safe_serialization: write the safetensors format; otherwise torch's own.

        Raises:
            CheckpointError: it could not be saved on some rank; what was there before is as it was.
            ConfigError: ``max_shard_size`` is no size.

        Example:
            >>> import os, tempfile
            >>> from notebook_accel import Accelerator
            >>> folder = tempfile.mkdtemp()
            >>> Accelerator(cpu=True).save_model(nn.Linear(2, 1), folder)
            >>> os.listdir(folder)
            ['model.safetensors']
        """
        how = Format(
            largest_bytes=bytes_of(max_shard_size),
            safe=safe_serialization,
            on_each_node=self._kit.settings.project.save_on_each_node,
        )
        # The parameters themselves: what is one of them under two names is known as such on every device.
        state = unwrapped_model(model, self._kit).state_dict(keep_vars=True)
        save_weights(state, Path(save_directory), self._kit.backend, how)

    def save(self, obj: Any, f: Any, safe_serialization: bool = False) -> None:
        """Save an object once for each machine, or by rank 0 alone unless the project saves on each node.

        Args:
            obj: plain data and tensors; with ``safe_serialization`` tensors by name.
            f: the file; one that is there is replaced when the new one is complete. Or an open file.
            safe_serialization: write the safetensors format; otherwise torch's own.

        Raises:
            CheckpointError: it could not be saved.
        """
        world = self._kit.backend.world
        if world.is_local_main if self._kit.settings.project.save_on_each_node else world.is_main:
            save_object(obj, f, self._kit.backend, safe=safe_serialization)
