/* A CUDA runtime library for tests: moves bytes in host memory and writes down what it was asked. It measures nothing.

   FAKE_CUDART_FAIL="call:code" makes one call fail; FAKE_CUDART_LOG names a file that gets one line for each call.
   Signatures are those of cuda_runtime_api.h. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int recorded; } event_t;
static int clock_ticks = 0;

static int seen(const char *call) {
    const char *path = getenv("FAKE_CUDART_LOG"), *fail = getenv("FAKE_CUDART_FAIL");
    if (path) {
        FILE *file = fopen(path, "a");
        fprintf(file, "%s\n", call);
        fclose(file);
    }
    size_t length = strlen(call);
    return fail && strncmp(fail, call, length) == 0 && fail[length] == ':' ? atoi(fail + length + 1) : 0;
}
#define BEGIN int failure = seen(__func__); if (failure) return failure

int cudaRuntimeGetVersion(int *version) { BEGIN; *version = 10020; return 0; }
int cudaDriverGetVersion(int *version) { BEGIN; *version = 11040; return 0; }
int cudaGetDeviceCount(int *count) { BEGIN; *count = getenv("FAKE_CUDART_NONE") ? 0 : 1; return 0; }
int cudaSetDevice(int device) { BEGIN; return device; }
int cudaGetDeviceProperties(char *properties, int device) { BEGIN; strcpy(properties, "Fake Tegra"); return device; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    BEGIN;
    *value = attribute == 75 ? 7 : attribute == 76 ? 2 : -1;
    return device;
}
int cudaMemGetInfo(size_t *free_, size_t *total) { BEGIN; *free_ = 1; *total = (size_t)8 << 30; return 0; }
int cudaMalloc(void **pointer, size_t size) { BEGIN; *pointer = malloc(size); return 0; }
int cudaFree(void *pointer) { BEGIN; free(pointer); return 0; }
int cudaMemcpy(void *target, const void *source, size_t size, int kind) {
    BEGIN;
    memcpy(target, source, size);
    return kind == 1 || kind == 2 ? 0 : 21; /* cudaErrorInvalidMemcpyDirection */
}
int cudaStreamCreate(void **stream) { BEGIN; *stream = malloc(1); return 0; }
int cudaStreamDestroy(void *stream) { BEGIN; free(stream); return 0; }
int cudaStreamSynchronize(void *stream) { BEGIN; return stream ? 0 : 400; }
int cudaEventCreate(event_t **event) { BEGIN; *event = calloc(1, sizeof **event); return 0; }
int cudaEventDestroy(event_t *event) { BEGIN; free(event); return 0; }
int cudaEventRecord(event_t *event, void *stream) { BEGIN; event->recorded = ++clock_ticks; return stream ? 0 : 400; }
int cudaEventSynchronize(event_t *event) { BEGIN; return event->recorded ? 0 : 400; }
int cudaEventElapsedTime(float *ms, event_t *start, event_t *end) {
    BEGIN;
    *ms = 0.5f * (end->recorded - start->recorded);
    return 0;
}
/* A graph counts its launches. Compiled with -DBEFORE_11_4, instantiating it has the arguments of CUDA 10 and 11. */
typedef struct { int launches; } graph_t;
static int capturing = 0;
int cudaStreamBeginCapture(void *stream, int mode) { BEGIN; capturing = 1; return stream && mode == 1 ? 0 : 1; }
int cudaStreamEndCapture(void *stream, graph_t **graph) {
    BEGIN;
    *graph = calloc(1, sizeof **graph);
    return stream && capturing-- == 1 ? 0 : 904;
}
#ifdef BEFORE_11_4
int cudaGraphInstantiate(graph_t **executable, graph_t *graph, void **node, char *text, size_t size) {
    BEGIN;
    *executable = calloc(1, sizeof **executable);
    return graph && !node && !text && !size ? 0 : 1;
}
#else
int cudaGraphInstantiateWithFlags(graph_t **executable, graph_t *graph, unsigned long long flags) {
    BEGIN;
    *executable = calloc(1, sizeof **executable);
    return graph && !flags ? 0 : 1;
}
#endif
int cudaGraphDestroy(graph_t *graph) { BEGIN; free(graph); return 0; }
int cudaGraphLaunch(graph_t *executable, void *stream) { BEGIN; executable->launches++; return stream ? 0 : 400; }
int cudaGraphExecDestroy(graph_t *executable) { BEGIN; free(executable); return 0; }
int cudaGetLastError(void) { seen(__func__); return 0; }
const char *cudaGetErrorName(int code) { return code == 2 ? "cudaErrorMemoryAllocation" : "cudaErrorOther"; }
const char *cudaGetErrorString(int code) { return code == 2 ? "out of memory" : "something else"; }
