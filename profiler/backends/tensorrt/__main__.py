"""Look into one model's engine: its three times, and each layer with its precision. JSON on standard output.

    python3 -m profiler.backends.tensorrt MODEL.onnx --precision fp16

On a board, where the agent is an archive: PYTHONPATH=AGENT.pyz python3 -m profiler.backends.tensorrt MODEL.onnx
"""

import argparse
import json
import os
import sys
from typing import Any, List, Optional

from profiler import measure
from profiler.backends.tensorrt import TensorRT, builder, layers
from profiler.errors import AgentError, MeasureError
from profiler.fields import JsonObject


def main(argv: Optional[List[str]] = None, **options: Any) -> int:
    """Describe the engine of a model; the exit code. `options`: of TensorRT, for tests."""
    parser = argparse.ArgumentParser(prog="python3 -m profiler.backends.tensorrt", description=__doc__.split("\n")[0])
    parser.add_argument("model", metavar="MODEL.onnx")
    parser.add_argument("--precision", default="fp32", choices=builder.PRECISIONS, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("--cuda-graph", action="store_true", help="launch inferences as one CUDA graph")
    parser.add_argument("--home", metavar="DIR", default=os.path.join(os.path.expanduser("~"), ".lightnas-edge"))
    args = parser.parse_args(argv)
    try:
        with open(args.model, "rb") as file:
            model = file.read()
        backend = TensorRT(args.precision, args.batch, 1, args.home, cuda_graph=args.cuda_graph, **options)
        print(json.dumps(describe(backend, model, args.precision), indent=1))
    except OSError as err:
        print("cannot read {}: {}".format(args.model, err.strerror), file=sys.stderr)
        return 1
    except (AgentError, MeasureError) as err:
        print("{}\n  try: {}".format(err.message, err.remedy), file=sys.stderr)
        return 1
    return 0


def describe(backend: TensorRT, model: bytes, precision: str) -> JsonObject:
    """Fingerprint, times and layers of a model's engine, which is built if it is not kept."""
    engine = backend.load(model)
    timings = measure.measure(engine, warmup_ms=500.0, min_sample_ms=10.0, samples=20)
    times = engine.device_times(timings.repeats)
    found = engine.layers()
    return {
        "fingerprint": backend.fingerprint(),
        "latency_ms": sorted(timings.samples_ms)[len(timings.samples_ms) // 2],
        "enqueue_ms": times.enqueue_ms,
        "gpu_ms": times.gpu_ms,
        "summary": dict(layers.summarise(found, precision)._asdict()),
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "precision": layer.precision,
                "ms": layer.ms,
                "tactic": layer.tactic,
            }
            for layer in found
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
