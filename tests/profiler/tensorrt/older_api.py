"""Write api/8.0.1.json, 8.2.1.json and 8.5.2.json: the versions of JetPack 4.6 and 5, of which no wheel was published.

    python -m tests.profiler.tensorrt.older_api

They are 8.6.1 (recorded from the real bindings) less what came later. What was there is listed below by class:
8.5 and 8.2 as read in NVIDIA's own sources of the bindings (NVIDIA/TensorRT, python/src/infer/pyCore.cpp at those
releases), 8.0 as 8.2 less what came with 8.2 (docs/tensorrt.md). Classes that are not
listed (network, tensor, parser, host memory) are taken to be as in 8.6.1. Nobody ran this on a board.
"""

import copy
import json
from pathlib import Path

from tests.profiler.tensorrt.record_api import render

API = Path(__file__).with_name("api")

LOGGER = "__init__ log min_severity"
PROFILER = "__init__ report_layer_time"
CACHE = "serialize combine reset"
INSPECTOR = "execution_context get_layer_information get_engine_information error_recorder"
CONFIG_8_2 = (
    "__del__ min_timing_iterations avg_timing_iterations int8_calibrator engine_capability max_workspace_size flags "
    "default_device_type DLA_core clear_flag set_flag get_flag quantization_flags clear_quantization_flag "
    "set_quantization_flag get_quantization_flag reset profile_stream add_optimization_profile "
    "set_calibration_profile get_calibration_profile num_optimization_profiles set_device_type get_device_type "
    "is_device_type_set reset_device_type can_run_on_DLA profiling_verbosity algorithm_selector set_tactic_sources "
    "get_tactic_sources create_timing_cache set_timing_cache get_timing_cache"
)
FLAGS_8_2 = "FP16 INT8 DEBUG GPU_FALLBACK STRICT_TYPES REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS SAFETY_SCOPE"
BUILDER_8_2 = (
    "__init__ __del__ create_network max_batch_size platform_has_tf32 platform_has_fast_fp16 platform_has_fast_int8 "
    "max_DLA_batch_size num_DLA_cores gpu_allocator create_optimization_profile error_recorder create_builder_config "
    "build_engine build_serialized_network is_network_supported logger reset"
)
RUNTIME_8_2 = "__init__ __del__ deserialize_cuda_engine DLA_core num_DLA_cores gpu_allocator error_recorder logger"
ENGINE_8_2 = (
    "__del__ __getitem__ __len__ num_bindings get_binding_name get_binding_index binding_is_input get_binding_shape "
    "get_binding_dtype has_implicit_batch_dimension max_batch_size num_layers serialize create_execution_context "
    "get_location create_execution_context_without_device_memory device_memory_size refittable name "
    "num_optimization_profiles engine_capability get_profile_shape get_profile_shape_input is_shape_binding "
    "is_execution_binding get_binding_bytes_per_component get_binding_components_per_element get_binding_format "
    "get_binding_format_desc get_binding_vectorized_dim error_recorder tactic_sources profiling_verbosity "
    "create_engine_inspector"
)
CONTEXT_8_2 = (
    "__del__ execute execute_async execute_v2 execute_async_v2 debug_sync profiler engine name device_memory "
    "active_optimization_profile get_strides set_binding_shape get_binding_shape set_shape_input get_shape "
    "all_binding_shapes_specified all_shape_inputs_specified set_optimization_profile_async error_recorder "
    "enqueue_emits_profile report_to_profiler"
)

V8_2 = {
    "Builder": BUILDER_8_2,
    "BuilderFlag": FLAGS_8_2,
    "EngineInspector": INSPECTOR,
    "IBuilderConfig": CONFIG_8_2,
    "ICudaEngine": ENGINE_8_2,
    "IExecutionContext": CONTEXT_8_2,
    "ILogger": "__init__ log",
    "IProfiler": PROFILER,
    "ITimingCache": CACHE,
    "LayerInformationFormat": "ONELINE JSON",
    "Logger": LOGGER,
    "MemoryPoolType": None,
    "NetworkDefinitionCreationFlag": "EXPLICIT_BATCH EXPLICIT_PRECISION",
    "ProfilingVerbosity": "LAYER_NAMES_ONLY DETAILED NONE DEFAULT VERBOSE",
    "Runtime": RUNTIME_8_2,
    "TensorIOMode": None,
}
V8_0 = dict(
    V8_2,
    EngineInspector=None,
    ICudaEngine=ENGINE_8_2.replace("create_engine_inspector", ""),
    IExecutionContext=CONTEXT_8_2.replace("enqueue_emits_profile report_to_profiler", ""),
    LayerInformationFormat=None,
    ProfilingVerbosity="DEFAULT NONE VERBOSE",
)
V8_5 = dict(
    V8_2,
    Builder=BUILDER_8_2 + " max_threads",
    BuilderFlag=FLAGS_8_2
    + " OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS DIRECT_IO REJECT_EMPTY_ALGORITHMS "
    "ENABLE_TACTIC_HEURISTIC",
    IBuilderConfig=CONFIG_8_2 + " set_memory_pool_limit get_memory_pool_limit set_preview_feature get_preview_feature",
    ICudaEngine=ENGINE_8_2
    + " num_io_tensors get_tensor_name get_tensor_mode is_shape_inference_io get_tensor_shape get_tensor_dtype "
    "get_tensor_location get_tensor_bytes_per_component get_tensor_components_per_element get_tensor_format "
    "get_tensor_format_desc get_tensor_vectorized_dim get_tensor_profile_shape",
    IExecutionContext=CONTEXT_8_2
    + " set_tensor_address get_tensor_address set_input_shape get_tensor_shape get_tensor_strides "
    "get_output_allocator set_output_allocator get_max_output_size temporary_allocator infer_shapes execute_async_v3 "
    "persistent_cache_limit nvtx_verbosity",
    MemoryPoolType="WORKSPACE DLA_MANAGED_SRAM DLA_LOCAL_DRAM DLA_GLOBAL_DRAM",
    Runtime=RUNTIME_8_2 + " max_threads",
    TensorIOMode="NONE INPUT OUTPUT",
)
VERSIONS = {"8.0.1": V8_0, "8.2.1": V8_2, "8.5.2": V8_5}


def derive(version):
    """The surface of an older version. Fails if it lists a name that 8.6.1 lacks: nothing we use was removed in 8."""
    surface = json.loads((API / "8.6.1.json").read_text())
    classes = {}
    for name, content in surface["classes"].items():
        listed = VERSIONS[version].get(name, "everything")
        if listed == "everything":
            classes[name] = content
        elif listed is not None:
            classes[name] = only(content, listed.split())
    gone = set(surface["classes"]) - set(classes)
    provenance = {"how": "8.6.1 less what came later, by older_api.py: read, not recorded"}
    module = [name for name in surface["module"] if name not in gone]
    return dict(surface, version=version, classes=classes, provenance=provenance, module=module)


def only(content, names):
    content = copy.deepcopy(content)
    kept = []
    for group in ("members", "methods", "properties"):
        if group in content:
            content[group] = {name: value for name, value in content[group].items() if name in names}
            kept.extend(content[group])
    assert sorted(kept) == sorted(names), set(names) ^ set(kept)
    return content


if __name__ == "__main__":
    for version in VERSIONS:
        (API / f"{version}.json").write_text(render(derive(version)))
