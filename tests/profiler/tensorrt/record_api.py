"""Record the surface of NVIDIA's TensorRT bindings: names, properties, enum members, argument names. Facts, not code.

    pip download --no-deps tensorrt_cu12_bindings==10.3.0
    python tests/profiler/tensorrt/record_api.py tensorrt_cu12_bindings-10.3.0-*.whl > tests/.../api/10.3.0.json

The wheel contains the real bindings without TensorRT. All they need from libnvinfer and its kin are some ten C functions
that are called when something is constructed, so empty libraries of those names are enough to import them, in a
process of its own, and to read the signatures that pybind11 writes into docstrings. Nothing is ever constructed.
Needs gcc, nm and readelf, and a Python of the wheel's version (--python; default: this one).
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args(arguments)
    sys.stdout.write(render(record(options.wheel, options.python)))


def record(wheel, python=sys.executable):
    """The surface of the bindings in a wheel, with its provenance."""
    code = Path(__file__).with_name("surface.py").read_text()
    printed = run_with_bindings(wheel, code, python)
    provenance = {
        "how": "the real bindings, imported without TensorRT by record_api.py",
        "wheel": wheel.name,
        "wheel_sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
    }
    return dict(json.loads(printed), kind="api", schema=1, provenance=provenance)


def run_with_bindings(wheel, code, python=sys.executable, path=""):
    """What a Python program prints that can `import tensorrt_bindings`."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        write_stubs(Path(folder, "tensorrt_bindings", "tensorrt.so"), folder)
        return subprocess.run(
            [python, "-W", "ignore", "-c", code],
            env=dict(os.environ, LD_LIBRARY_PATH=folder, PYTHONPATH=os.pathsep.join([folder, str(path)])),
            stdout=subprocess.PIPE,
            check=True,
        ).stdout


def write_stubs(library, folder):
    """Empty libraries under the names that the bindings load; the first has every function that they lack."""
    needed = re.findall(r"NEEDED.*\[(libnv[^\]]+)\]", output_of("readelf", "-d", library))
    undefined = re.findall(r"^ +U (\w+)$", output_of("nm", "-D", library), re.MULTILINE)
    lacking = [name for name in undefined if not name.startswith(("Py", "_Py"))]
    source = Path(folder, "stub.c")
    for name in needed:
        source.write_text("".join(f"void *{function}(void) {{ return 0; }}\n" for function in lacking))
        subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,-soname," + name, "-o", Path(folder, name), source], check=True)
        lacking = []


def output_of(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout


def render(surface):
    """JSON with one member of a class a line, so that the difference between two versions reads as a diff."""
    text = json.dumps(surface, indent=1, sort_keys=True)
    for inner in (r"[^\[\]{}]*?", r"(?:\[[^\[\]]*\](?:,\s*)?)+"):  # lists of names, then lists of those
        text = re.sub(r"\[\s*(" + inner + r")\s*\](?=,?\n)", one_line, text)
    return text + "\n"


def one_line(found):
    return "[" + re.sub(r"\s*\n\s*", " ", found[1]) + "]"


if __name__ == "__main__":
    main(sys.argv[1:])
