"""The names that users of Hugging Face Accelerate import from its ``utils``; they are defined elsewhere."""

from notebook_accel.lazy import resolver

_HOMES = {
    "AutocastKwargs": "core.handlers",
    "DDPCommunicationHookType": "core.handlers",
    "DataLoaderConfiguration": "core.plugins",
    "DistributedDataParallelKwargs": "core.handlers",
    "DistributedType": "world",
    "DynamoBackend": "core.compiling",
    "GradScalerKwargs": "core.handlers",
    "GradientAccumulationPlugin": "core.plugins",
    "InitProcessGroupKwargs": "core.handlers",
    "KwargsHandler": "core.handlers",
    "ProfileKwargs": "core.handlers",
    "ProjectConfiguration": "core.plugins",
    "RNGType": "core.rng",
    "TorchDynamoPlugin": "core.compiling",
    "broadcast": "core.operations",
    "broadcast_object_list": "core.operations",
    "clear_device_cache": "core.memory",
    "clear_environment": "environment",
    "concatenate": "core.operations",
    "convert_outputs_to_fp32": "core.operations",
    "convert_to_fp32": "core.operations",
    "extract_model_from_parallel": "core.operations",
    "find_batch_size": "core.operations",
    "find_device": "core.operations",
    "find_executable_batch_size": "core.batch_size",
    "gather": "core.operations",
    "gather_object": "core.operations",
    "load_checkpoint_in_model": "core.weights.loading",
    "pad_across_processes": "core.operations",
    "patch_environment": "environment",
    "recursively_apply": "core.operations",
    "reduce": "core.operations",
    "release_memory": "core.memory",
    "save": "core.weights.saving",
    "send_to_device": "core.operations",
    "set_seed": "core.rng",
    "slice_tensors": "core.operations",
    "synchronize_rng_states": "core.rng",
    "tqdm": "core.progress",
    "wait_for_everyone": "core.operations",
    "write_basic_config": "launch.basic_config",
}

__all__ = list(_HOMES)
__getattr__ = resolver(__name__, _HOMES, globals())


def __dir__() -> list[str]:
    """List the names, resolved or not."""
    return sorted({*globals(), *_HOMES})
