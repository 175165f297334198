"""Names of Hugging Face Accelerate for what is not built here: using one says so.

The errors are those that Python raises for a missing name, too, so that code which asks first (``hasattr``,
``except ImportError``) finds that it is not there.
"""

from __future__ import annotations

from notebook_accel.errors import AttributeNotBuilt, ImportNotBuilt

_LARGE_MODELS = "models that do not fit on one device"
_FP8 = "fp8"
_SHARDED = "fully sharded data parallelism"
_PARALLEL = "several kinds of parallelism at once"
_TENSOR_PARALLEL = "tensor parallelism"
_CONTEXT_PARALLEL = "context parallelism"
_HINTS = {
    _LARGE_MODELS: "build the model whole, and fill it with load_checkpoint_in_model()",
    _FP8: "use mixed_precision='bf16' or 'fp16'",
}
_HINT = "leave it out to train a whole copy of the model on every rank"

IMPORTS = {
    "AORecipeKwargs": _FP8,
    "BnbQuantizationConfig": "quantisation",
    "DeepSpeedPlugin": "DeepSpeed",
    "FP8RecipeKwargs": _FP8,
    "FullyShardedDataParallelPlugin": _SHARDED,
    "MSAMPRecipeKwargs": _FP8,
    "MegatronLMPlugin": "Megatron-LM",
    "ParallelismConfig": _PARALLEL,
    "TERecipeKwargs": _FP8,
    "TorchContextParallelConfig": _CONTEXT_PARALLEL,
    "TorchTensorParallelConfig": _TENSOR_PARALLEL,
    "TorchTensorParallelPlugin": _TENSOR_PARALLEL,
    "cpu_offload": _LARGE_MODELS,
    "disk_offload": _LARGE_MODELS,
    "dispatch_model": _LARGE_MODELS,
    "infer_auto_device_map": _LARGE_MODELS,
    "init_empty_weights": _LARGE_MODELS,
    "init_on_device": _LARGE_MODELS,
    "load_checkpoint_and_dispatch": _LARGE_MODELS,
    "prepare_pippy": "pipeline parallelism",
}
ATTRIBUTES = {
    "context_parallel_rank": _CONTEXT_PARALLEL,
    "data_parallel_rank": _PARALLEL,
    "data_parallel_shard_rank": _SHARDED,
    "deepspeed_plugin": "DeepSpeed",
    "deepspeed_ulysses_dl_adapter": "DeepSpeed",
    "fp8_backend": _FP8,
    "is_composable_parallelism_enabled": _PARALLEL,
    "is_fsdp2": _SHARDED,
    "lomo_backward": "the LOMO optimizer",
    "maybe_context_parallel": _CONTEXT_PARALLEL,
    "parallelism_config": _PARALLEL,
    "pipeline_parallel_rank": "pipeline parallelism",
    "should_save_model": _PARALLEL,
    "tensor_parallel_rank": _TENSOR_PARALLEL,
    "torch_device_mesh": _PARALLEL,
    "verify_device_map": _LARGE_MODELS,
}


def refuse_attribute(owner: str, name: str) -> AttributeNotBuilt:
    """Give the error for one of ``ATTRIBUTES``.

    Args:
        owner: the object's class.
        name: of the attribute.

    Example:
        >>> print(refuse_attribute("Accelerator", "fp8_backend"))
        Accelerator.fp8_backend is for fp8, which is not built here
          -> use mixed_precision='bf16' or 'fp16'
    """
    what = ATTRIBUTES[name]
    return AttributeNotBuilt(f"{owner}.{name} is for {what}, which is not built here", _HINTS.get(what, _HINT))


def missing_import(module: str, name: str) -> AttributeError | ImportNotBuilt:
    """Give the error for a name that a module does not have.

    Args:
        module: where it was looked for.
        name: what was looked for.

    Example:
        >>> print(missing_import("notebook_accel", "prepare_pippy"))
        notebook_accel.prepare_pippy is for pipeline parallelism, which is not built here
          -> leave it out to train a whole copy of the model on every rank
    """
    if name not in IMPORTS:
        return AttributeError(f"module {module!r} has no attribute {name!r}")
    what = IMPORTS[name]
    return ImportNotBuilt(f"{module}.{name} is for {what}, which is not built here", _HINTS.get(what, _HINT))
