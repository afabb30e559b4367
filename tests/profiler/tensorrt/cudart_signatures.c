/* Compiles only if NVIDIA declares the calls of profiler/cuda.py, and the numbers in it, as ctypes declares them there. */
#include <cuda_runtime_api.h>
#include <stddef.h>
#define SAME(f, ...) _Static_assert(__builtin_types_compatible_p(__typeof__(&f), cudaError_t (*)(__VA_ARGS__)), #f)
SAME(cudaRuntimeGetVersion, int *); SAME(cudaDriverGetVersion, int *); SAME(cudaGetDeviceCount, int *); SAME(cudaSetDevice, int);
SAME(cudaDeviceGetAttribute, int *, enum cudaDeviceAttr, int); SAME(cudaMemGetInfo, size_t *, size_t *);
SAME(cudaMalloc, void **, size_t); SAME(cudaFree, void *); SAME(cudaMemcpy, void *, const void *, size_t, enum cudaMemcpyKind);
SAME(cudaStreamCreate, cudaStream_t *); SAME(cudaStreamDestroy, cudaStream_t); SAME(cudaStreamSynchronize, cudaStream_t);
SAME(cudaEventCreate, cudaEvent_t *); SAME(cudaEventDestroy, cudaEvent_t); SAME(cudaEventRecord, cudaEvent_t, cudaStream_t);
SAME(cudaEventSynchronize, cudaEvent_t); SAME(cudaEventElapsedTime, float *, cudaEvent_t, cudaEvent_t); SAME(cudaGetLastError, void);
SAME(cudaGetDeviceProperties, struct cudaDeviceProp *, int);
SAME(cudaStreamBeginCapture, cudaStream_t, enum cudaStreamCaptureMode); SAME(cudaStreamEndCapture, cudaStream_t, cudaGraph_t *);
#if CUDART_VERSION >= 11040
SAME(cudaGraphInstantiateWithFlags, cudaGraphExec_t *, cudaGraph_t, unsigned long long);
#endif
#if CUDART_VERSION < 12000
SAME(cudaGraphInstantiate, cudaGraphExec_t *, cudaGraph_t, cudaGraphNode_t *, char *, size_t);
#endif
SAME(cudaGraphLaunch, cudaGraphExec_t, cudaStream_t); SAME(cudaGraphExecDestroy, cudaGraphExec_t); SAME(cudaGraphDestroy, cudaGraph_t);
_Static_assert(cudaStreamCaptureModeThreadLocal == 1 && cudaErrorStreamCaptureUnsupported == 900 && cudaErrorStreamCaptureWrongThread == 908, "");
_Static_assert(cudaErrorIllegalAddress == 700 && cudaErrorMisalignedAddress == 716 && cudaErrorLaunchFailure == 719, "");
_Static_assert(__builtin_types_compatible_p(__typeof__(&cudaGetErrorName), const char *(*)(cudaError_t)), "");
_Static_assert(__builtin_types_compatible_p(__typeof__(&cudaGetErrorString), const char *(*)(cudaError_t)), "");
_Static_assert(cudaMemcpyHostToDevice == 1 && cudaMemcpyDeviceToHost == 2 && cudaDevAttrComputeCapabilityMajor == 75 && cudaDevAttrComputeCapabilityMinor == 76 && cudaErrorMemoryAllocation == 2, "");
_Static_assert(offsetof(struct cudaDeviceProp, name) == 0 && sizeof(((struct cudaDeviceProp *)0)->name) == 256 && sizeof(struct cudaDeviceProp) <= 8192, "");
