"""How a field test measures: which engines and precisions, how many rounds, and how long each step takes at most."""

from __future__ import annotations

from dataclasses import dataclass

from lightnas_edge.measuring import MeasurementProtocol, Settings
from lightnas_edge.measuring.engines import PRECISIONS_OF
from lightnas_edge.space import Space, load_space

# Classes that no table of a user has: the jobs get names of their own, and no earlier job is touched.
_CLASSES = 3
_ENGINES = {
    "tensorrt": ("tensorrt", "onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt"),
    "onnxruntime": ("onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt"),
    "simulated": ("simulated",),
}
# Of an operator's and a network's engine, seconds: TensorRT builds, the others load. Those of TensorRT are guesses for the
# slowest board.
_BUILD_S = {"tensorrt": (20.0, 60.0), "onnxruntime-tensorrt": (20.0, 60.0)}
_LOAD_S = (0.3, 0.5)


@dataclass(frozen=True)
class Plan:
    """`default`: the engine that the board measures with unless another is named. `only`: names of steps; empty: all."""

    default: str
    quick: bool = False
    only: frozenset[str] = frozenset()

    @property
    def space(self) -> Space:
        return load_space("tiny").with_classes(_CLASSES)

    @property
    def engines(self) -> tuple[tuple[str, str], ...]:
        """(engine, precision), the default engine first; a quick test tries that one only."""
        names = _ENGINES.get(self.default, (self.default,))
        return tuple(
            (name, precision) for name in (names[:1] if self.quick else names) for precision in PRECISIONS_OF.get(name, ("fp32",))
        )  # fmt: skip

    @property
    def networks(self) -> int:
        return 5 if self.quick else 10

    @property
    def rounds(self) -> int:
        return 4 if self.quick else 10

    @property
    def limit_s(self) -> float:
        """Of the whole test."""
        return 20 * 60.0 if self.quick else 60 * 60.0

    def settings(
        self,
        backend: str = "",
        precision: str = "fp32",
        *,
        rounds: int = 0,
        energy_rounds: int = 0,
        lock_clocks: bool = False,
        power_mode: str | None = None,
    ) -> Settings:
        protocol = MeasurementProtocol(rounds=rounds or self.rounds, extra_rounds=0, spread_limit=None, timeout_s=60.0)
        return Settings(
            backend=backend or self.default, precision=precision, protocol=protocol, build_timeout_s=600.0,
            energy_rounds=energy_rounds, lock_clocks=lock_clocks, power_mode=power_mode,
        )  # fmt: skip

    def estimate_s(self, visits: int, *, operators: int = 0, networks: int = 0, backend: str = "") -> float:
        """Of one job: visits of 50 ms, and the engines that no earlier step has built."""
        operator_s, network_s = _BUILD_S.get(backend or self.default, _LOAD_S)
        return 5.0 + operators * operator_s + networks * network_s + 0.05 * visits
