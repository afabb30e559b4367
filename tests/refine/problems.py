"""A run whose network is small enough to refine in seconds, and a board on which operators cost what they compute."""

import tempfile
from collections import Counter
from pathlib import Path

import luts
from lightnas_edge.predictor import lut_predictor
from lightnas_edge.refine import RefineConfig
from lightnas_edge.search import keep_predictors
from lightnas_edge.space import Architecture
from lightnas_edge.space.cost import operator_cost
from tests import run_folders
from tests.luts.journals import FINGERPRINT, write_measured
from tests.search.problems import SPACE, data

FOUND = Architecture.from_names(SPACE, ["mbconv_k5_e3", "mbconv_k3_e2", "skip", "mbconv_k5_e3"])
CONFIG = RefineConfig(candidates=6, population=3, tournament=2, finalists=2, seeds=2, steps=3, batch=16, rounds=4)


def true_ms(shaped):
    """A microsecond for every thousand multiplications, plus ten for each operator."""
    return 0.01 + operator_cost(shaped)[0] / 1e6


class Board:
    """Simulates a board: writes journals, lists the measured operators, and checks that a journal is of one space."""

    def __init__(self, slowness=1.0, **changes):
        self.slowness, self.fingerprint, self.measured = slowness, FINGERPRINT | changes, []
        self.space_of = {}

    def __call__(self, space, operators, table: Path):
        assert self.space_of.setdefault(table, space.sha256) == space.sha256
        self.measured.append([shaped.key for shaped in operators])
        session = f"{len(self.measured):08x}"
        truth = {shaped.key: true_ms(shaped) for shaped in operators}
        write_measured(
            table, truth, rounds=4, drift=lambda round_: self.slowness, session=session, fingerprint=self.fingerprint
        )
        return luts.read(table)


def write_run(folder, *, target_ms=None, confidence=None, found=FOUND, with_table=True, targets=None, **changed):
    """A run as a search leaves it; the target is the prediction of the network when none is given."""
    truth = {shaped.key: true_ms(shaped) for shaped in SPACE.shaped_operators()}
    with tempfile.TemporaryDirectory() as scratch:
        table = write_measured(Path(scratch) / "lut.jsonl", truth, rounds=4)
        predictor, content = lut_predictor(SPACE, luts.read(table)), table.read_bytes()
    if target_ms is None:
        target_ms = 1.02 * predictor.predict_one(found)
    fields = {"fingerprint": predictor.fingerprint, **changed}
    run = run_folders.begin(folder, SPACE, data().record, targets=targets or {"latency_ms": target_ms}, **fields)
    if with_table:
        run.save_table(content)
    keep_predictors(run, [predictor])
    predicted = run_folders.predicted(predictor.predict_one(found), target_ms)
    run.save_found(found, predicted.model_copy(update={"confidence": confidence}), None)
    return folder


def chain_ms(space, architecture):
    """The truth of a network as the table's sum has it."""
    counts = Counter(shaped for shaped in space.chain(architecture) if not shaped.is_identity)
    return sum(count * true_ms(shaped) for shaped, count in counts.items())
