"""Memory of the agent besides the runtime's: both of its processes, less a bare process that does the same inferences.

A whole network of `lightnas` is measured, then run on 250 images (144 MiB), as `verify` does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import devices
from lightnas_edge import graph
from lightnas_edge.measuring import MeasurementProtocol, Settings, sample_architectures, write_verify_job
from lightnas_edge.space import load_space

IMAGES = 250
# The runtime alone, with the agent's options; the last line is its peak in kB.
_BARE = """
import re, sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
sessions = []
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        session = onnxruntime.InferenceSession(file.read(), options, providers=["CPUExecutionProvider"])
    (source,), (target,) = session.get_inputs(), session.get_outputs()
    binding = session.io_binding()
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(numpy.zeros(source.shape, numpy.float32), "cpu", 0)]
    values.append(onnxruntime.OrtValue.ortvalue_from_shape_and_type(target.shape, numpy.float32, "cpu", 0))
    binding.bind_ortvalue_input(source.name, values[0])
    binding.bind_ortvalue_output(target.name, values[1])
    session.run_with_iobinding(binding)
    sessions.append((session, binding, values))
print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read()).group(1))  # getrusage counts the parent's pages too
"""


def rows() -> list[tuple[str, str, str]]:
    space = load_space("lightnas")
    network = sample_architectures(space, 1, seed=1)[0]
    settings = Settings(protocol=MeasurementProtocol(rounds=2, extra_rounds=0))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        side = space.input_size
        inputs = np.zeros((IMAGES, 3, side, side), dtype=np.float32)
        model = graph.model_bytes(graph.network_model(space, network, batch=settings.batch, opset=settings.opset))
        job = write_verify_job(folder / "job", space, settings, network, model, inputs=inputs)
        del inputs
        archive = folder / "agent.pyz"
        devices.build_agent_archive(archive)
        ended = subprocess.run(
            [sys.executable, archive, "run", "--job", job.folder, "--home", folder / "home"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        memory = json.loads(ended.stdout)["memory"]
        models = sorted((job.folder / "models").glob("*.onnx"))
        bare = subprocess.run([sys.executable, "-c", _BARE, *models], capture_output=True, text=True, check=True)
    bare_mb = int(bare.stdout.split()[-1]) / 1024
    own_mb = memory["agent_mb"] + memory["measuring_mb"] - bare_mb
    return [
        ("peak memory of the agent's process", f"{memory['agent_mb']:.0f} MB", "-"),
        ("peak memory of the measuring process", f"{memory['measuring_mb']:.0f} MB", "-"),
        ("the bare runtime with the same engines", f"{bare_mb:.0f} MB", "-"),
        (f"the agent besides the runtime, {IMAGES} images", f"{own_mb:.0f} MB", "< 150 MB"),
    ]
