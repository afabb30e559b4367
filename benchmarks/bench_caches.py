"""Why a sum of operators is below its network: operators run with hot caches, and with caches written over.

Three random `lightnas` networks and their operators in one process, in shuffled rounds: docs/measuring.md, "The sum of operators".
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from typing import Any

import numpy as np
import onnxruntime

from lightnas_edge.graph import Arithmetic, model_bytes, network_model, operator_model
from lightnas_edge.space import Architecture, load_space

SLOW = True
SECONDS = 70.0  # per precision
FLUSH_BYTES = 4 * 2**20  # four times the L2 cache of a core here
_TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


class _Engine:
    def __init__(self, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._binding, self._values = self._session.io_binding(), []
        (source,), (target,) = self._session.get_inputs(), self._session.get_outputs()
        values = np.random.default_rng(0).standard_normal(source.shape)
        values = np.clip(values * 40 + 128, 0, 255) if source.type == "tensor(uint8)" else values
        self.input = onnxruntime.OrtValue.ortvalue_from_numpy(values.astype(_TYPES[source.type]))
        output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(target.shape, _TYPES[target.type])
        self._binding.bind_ortvalue_input(source.name, self.input)
        self._binding.bind_ortvalue_output(target.name, output)
        self._values.append(output)
        self.run()

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def timed_ms(self, runs: int) -> float:
        start = time.perf_counter()
        for _ in range(runs):
            self.run()
        return (time.perf_counter() - start) / runs * 1e3


def rows() -> list[tuple[str, str, str]]:
    space = load_space("lightnas")
    networks = [Architecture.random(space, np.random.default_rng(seed)) for seed in range(3)]
    chains = [[each for each in space.chain(network) if not each.is_identity] for network in networks]
    flush, found = np.zeros(FLUSH_BYTES // 8), []
    for precision in ("fp32", "int8"):
        arithmetic = Arithmetic.for_backend("onnxruntime", precision)
        engines: dict[Any, _Engine] = {
            each.key: _Engine(model_bytes(operator_model(each, arithmetic=arithmetic)))
            for chain in chains
            for each in chain
        }
        for index, network in enumerate(networks):
            engines[index] = _Engine(model_bytes(network_model(space, network, arithmetic=arithmetic)))
        times_ms: dict[Any, list[float]] = defaultdict(list)
        names, end_s = list(engines), time.monotonic() + SECONDS
        while time.monotonic() < end_s:
            random.shuffle(names)
            for name in names:
                engine = engines[name]
                engine.run()
                times_ms[name, "hot"].append(engine.timed_ms(10 if isinstance(name, str) else 3))
                np.add(flush, 1, out=flush)
                engine.input.numpy().sum()  # what the operator before has just written
                times_ms[name, "flushed"].append(engine.timed_ms(1))
        for state in ("hot", "flushed"):
            errors = []
            for index, chain in enumerate(chains):
                total = sum(np.quantile(times_ms[each.key, state], 0.1) for each in chain)
                errors.append(f"{100 * (total / np.quantile(times_ms[index, 'hot'], 0.1) - 1):+.1f} %")
            found.append((f"{precision}: sum of operators less network, caches {state}", ", ".join(errors), ""))
    return found
