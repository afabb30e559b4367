"""One random `lightnas` network in every arithmetic with ONNX Runtime on this CPU: the table of docs/graphs.md."""

from __future__ import annotations

import collections
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from lightnas_edge.graph import Arithmetic, model_bytes, network_model
from lightnas_edge.space import Architecture, load_space

RUNS = 15
ARITHMETICS = (Arithmetic(), Arithmetic("fp16"), Arithmetic("int8", "ort"), Arithmetic("int8", "tensorrt"))


def rows() -> list[tuple[str, str, str]]:
    space = load_space("lightnas")
    network = Architecture.random(space, np.random.default_rng(1))
    shape = (1, 3, space.input_size, space.input_size)
    images = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    found, reference = [], None
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "optimised.onnx"
        for arithmetic in ARITHMETICS:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 3
            options.optimized_model_filepath = str(path)
            model = model_bytes(network_model(space, network, arithmetic=arithmetic))
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            output = np.asarray(session.run(None, {"input": images})[0])
            times_ms = []
            for _ in range(RUNS):
                start = time.perf_counter()
                session.run(None, {"input": images})
                times_ms.append((time.perf_counter() - start) * 1e3)
            reference = output if reference is None else reference
            cosine = float((output * reference).sum() / np.linalg.norm(output) / np.linalg.norm(reference))
            kinds = collections.Counter(node.op_type for node in onnx.load(path).graph.node)
            text = f"{np.median(times_ms):.1f} ms, {kinds['QLinearConv']} convolutions in int8, cosine {cosine:.4f}"
            found.append((str(arithmetic), text, ""))
    return found
