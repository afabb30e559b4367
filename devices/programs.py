"""Programs that every connection runs on a board, and how their answers are read."""

from __future__ import annotations

from devices.connection import Completed, Connection
from devices.errors import BoardUnreachableError

# Starts its arguments (log file, output file, command...) in a session of their own, prints the process id and ends at
# once, so that the command belongs to init: it survives us, and leaves no zombie when it ends.
DETACH = (
    "import subprocess, sys; log = open(sys.argv[1], 'ab'); "
    "child = subprocess.Popen(sys.argv[3:], stdin=subprocess.DEVNULL, stdout=open(sys.argv[2], 'ab'), stderr=log, "
    "start_new_session=True); child.returncode = 0; print(child.pid)"
)


def default_backend(connection: Connection) -> str:
    """TensorRT on a Jetson, else ONNX Runtime on the CPU."""
    return "tensorrt" if _is_jetson(connection) else "onnxruntime"


def started(ended: Completed, what: str, name: str) -> int:
    """The process id that DETACH printed.

    Raises:
        BoardUnreachableError: nothing was started.
    """
    answer = last_line(ended.stdout)
    if ended.returncode == 0 and answer.isdigit():
        return int(answer)
    text = last_line(ended.stderr).decode(errors="replace") or f"exit code {ended.returncode}"
    raise BoardUnreachableError(f"cannot start {what} on {name}: {text}")


def _is_jetson(connection: Connection) -> bool:
    """Yocto images and containers lack NVIDIA's release file; the kernel names the chip on all of them."""
    if connection.exists("/etc/nv_tegra_release"):
        return True
    compatible = "/proc/device-tree/compatible"
    return connection.exists(compatible) and b"nvidia,tegra" in connection.read(compatible)


def last_line(output: bytes) -> bytes:
    """The last line of a command's output: a login shell may print a greeting before it."""
    return (output.strip().splitlines() or [b""])[-1]


def too_long(remote: str, name: str, limit: int) -> BoardUnreachableError:
    return BoardUnreachableError(f"{remote} on {name} is longer than the limit of {limit} bytes")
