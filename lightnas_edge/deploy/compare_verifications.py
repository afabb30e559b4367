"""What changed between two verifications, and whether it matters: new JetPack, other board, other day."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist, median

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.deploy.evidence import paired_interval
from lightnas_edge.deploy.judge import AT_LEAST, COUNTED, LABELS, UNITS, decimals
from lightnas_edge.deploy.statistics import DAY_DEVIATION
from lightnas_edge.errors import VerifyError
from lightnas_edge.records.comparison import (
    BudgetChange,
    ComparedVerification,
    ComparisonReport,
    Finding,
    MachineSpeed,
    MetricChange,
)
from lightnas_edge.records.deployment import LATENCY_FIELDS, AccuracyRecord, Interval, VerificationRecord
from lightnas_edge.records.differences import fingerprint_differences
from lightnas_edge.records.plain_text import clean_text

_PLACES = ("verification.json", "verify/verification.json")


def read_verification(path: Path) -> VerificationRecord:
    """A verification.json, or a folder that holds one: a run directory, or the output of `verify --model`.

    Raises:
        VerifyError: there is none, or it is damaged.
    """
    remedy = "name a verification.json, a run directory or an output folder of `verify --model`"
    if path.is_dir():
        found = next((path / place for place in _PLACES if (path / place).is_file()), None)
        if found is None:
            raise VerifyError(f"{path} holds no verification.json", hint=remedy)
        path = found
    return VerificationRecord.load(path, error=VerifyError, remedy=remedy)


def compare_verifications(old: VerificationRecord, new: VerificationRecord) -> ComparisonReport:
    """Every number of both sides.

    Raises:
        VerifyError: one side is simulated and the other is measured.
    """
    if old.simulated != new.simulated:
        side = "old" if old.simulated else "new"
        raise VerifyError(
            f"the {side} verification is SIMULATED and the other one is measured: their numbers cannot be compared",
            hint="verify both on boards, or both on virtual boards",
        )
    changes, not_compared = _changes(old, new)
    machine = _machine(old, new)
    budgets = _budgets(old, new)
    differences = _differences(old, new)
    same = old.model_sha256 == new.model_sha256
    if machine is None:
        not_compared.append("machine speed: the verifications have no sentinel operators of one table in common")
    return ComparisonReport(
        old=_side(old),
        new=_side(new),
        simulated=new.simulated,
        confidence=min(old.confidence, new.confidence),
        day_deviation=DAY_DEVIATION,
        same_network=same,
        differences=differences,
        machine=machine,
        changes=changes,
        budgets=budgets,
        findings=_findings(same, changes, budgets, machine, new.simulated),
        remedy=_remedy(same, changes, budgets, machine, new),
        not_compared=tuple(not_compared),
    )


def describe_change(change: MetricChange) -> str:
    """`p50 latency rose by 3.1 % (2.4 to 3.8 %), from 18.6 to 19.2 ms: more than day-to-day differences`"""
    name, unit = LABELS[change.metric], UNITS[change.metric]
    factor = 1.0 if unit else 100.0
    digits = max(decimals(factor * change.old), decimals(factor * change.new)) if unit else 1
    ends = f"from {factor * change.old:.{digits}f} to {factor * change.new:.{digits}f} {unit or '%'}"
    amount = change.new - change.old if change.ratio is None else change.ratio - 1
    verb = "rose" if amount > 0 else "fell"
    by = f" by {100 * abs(amount):.1f} {'points' if change.ratio is None else '%'}"
    text = f"{name} did not change ({ends})" if amount == 0 else f"{name} {verb}{by}{_shown(change, amount)}, {ends}"
    meaning = {
        "worse": "more than day-to-day differences, worse",
        "better": "more than day-to-day differences, better",
        "unknown": "no interval, so it is not known whether this is noise",
    }
    if change.metric in COUNTED:
        meaning["unknown"] = "the runtime counts it once, so that it has no interval"
    if change.ratio is None:
        meaning |= {"worse": "more than noise, worse", "better": "more than noise, better"}
    return f"{text}: {meaning.get(change.finding, change.finding)}"


def _shown(change: MetricChange, amount: float) -> str:
    if change.interval is None:
        return ""
    centre = 0.0 if change.ratio is None else 1.0
    low, high = sorted(math.copysign(1, amount) * (end - centre) for end in change.interval)
    return f" ({100 * low:.1f} to {100 * high:.1f} {'points' if change.ratio is None else '%'})"


def _side(record: VerificationRecord) -> ComparedVerification:
    names = ("created", "host", "model_sha256", "precision", "verdict")
    return ComparedVerification(**{name: getattr(record, name) for name in names})


def _differences(old: VerificationRecord, new: VerificationRecord) -> tuple[str, ...]:
    found = fingerprint_differences(old.fingerprint, new.fingerprint)
    for name in ("host", "precision", "batch"):
        was, now = getattr(old, name), getattr(new, name)
        if was != now and name not in {*old.fingerprint, *new.fingerprint}:
            found.append(f"{name} {was!r} and {now!r}")
    loads = [0.0 if each.sustained is None else each.sustained.asked_s for each in (old, new)]
    if loads[0] != loads[1]:
        found.append(f"load before it {loads[0]:g} s and {loads[1]:g} s")
    return tuple(clean_text(text) for text in found)


def _changes(old: VerificationRecord, new: VerificationRecord) -> tuple[tuple[MetricChange, ...], list[str]]:
    changes, not_compared = [], []
    for metric in LATENCY_FIELDS:
        was, now = old.measured.statistic(metric), new.measured.statistic(metric)
        changes.append(_ratio(metric, was.latency_ms, now.latency_ms, was.interval_ms, now.interval_ms))
    if old.energy and new.energy:
        changes.append(
            _ratio("energy_mj", old.energy.gross_mj, new.energy.gross_mj,
                   old.energy.gross_interval_mj, new.energy.gross_interval_mj)
        )  # fmt: skip
        was_mj, now_mj = old.energy.net_mj, new.energy.net_mj
        if was_mj is None or now_mj is None:
            if was_mj is not now_mj:
                not_compared.append("net energy: only one verification has it")
        elif min(was_mj, now_mj) <= 0:
            not_compared.append("net energy: of one verification it is not above that of the idle board")
        else:
            intervals = old.energy.net_interval_mj, new.energy.net_interval_mj
            changes.append(_ratio("net_energy_mj", was_mj, now_mj, *intervals))
    elif old.energy or new.energy:
        not_compared.append("energy: only one verification has it")
    if old.peak_memory_mb and new.peak_memory_mb:
        changes.append(_ratio("peak_memory_mb", old.peak_memory_mb, new.peak_memory_mb, None, None))
    elif old.peak_memory_mb or new.peak_memory_mb:
        not_compared.append("peak memory: only one verification has it")
    if old.accuracy and new.accuracy:
        if not _same_images(old, new):
            not_compared.append("top-1 accuracy: the verifications do not name the same images")
        else:
            changes.append(_accuracy(old, new))
    elif old.accuracy or new.accuracy:
        not_compared.append("top-1 accuracy: only one verification has it")
    if len(old.measured.streams) > 1 or len(new.measured.streams) > 1:
        not_compared.append("throughput and numbers of single streams")
    return tuple(changes), not_compared


def _ratio(
    metric: str, old: float, new: float, old_interval: Interval | None, new_interval: Interval | None
) -> MetricChange:
    """New over old. The interval of the ratio follows from those of both sides (Zou and Donner 2008, MOVER)."""
    ratio = new / old if old > 0 and new > 0 else None
    interval: Interval | None = None
    finding: Finding = "unknown"
    known = old_interval is not None and new_interval is not None
    if ratio is not None and old_interval and new_interval and known and min(*old_interval, *new_interval) > 0:
        centre = math.log(ratio)
        down = math.hypot(math.log(new / new_interval[0]), math.log(old_interval[1] / old))
        up = math.hypot(math.log(new_interval[1] / new), math.log(old / old_interval[0]))
        interval = (math.exp(centre - down), math.exp(centre + up))
        # A network differs by DAY_DEVIATION between two days; what lies within that is no finding about the change.
        day = NormalDist().inv_cdf(0.975) * DAY_DEVIATION
        nearest = centre - math.hypot(down, day) if centre > 0 else -centre - math.hypot(up, day)
        if interval[0] <= 1 <= interval[1]:
            finding = "within noise"
        elif nearest <= 0:
            finding = "within day-to-day differences"
        else:
            finding = "worse" if ratio > 1 else "better"
    return MetricChange(
        metric=metric, unit=UNITS[metric] or "share", old=old, new=new, ratio=ratio, interval=interval, finding=finding
    )


def _same_images(old: VerificationRecord, new: VerificationRecord) -> bool:
    was, now = old.accuracy, new.accuracy
    assert was is not None and now is not None
    if was.images_sha256 is not None and was.images_sha256 == now.images_sha256:
        return True
    return old.data_sha256 is not None and old.data_sha256 == new.data_sha256 and was.images == now.images


def _accuracy(old: VerificationRecord, new: VerificationRecord) -> MetricChange:
    """The difference, image by image where both records have that.

    Else as if the images were independent: on the same images that interval is too wide, never too narrow.
    """
    was, now = old.accuracy, new.accuracy
    assert was is not None and now is not None
    amount = now.top1 - was.top1
    interval = _paired(was, now, min(old.confidence, new.confidence))
    if interval is None:
        down = math.hypot(now.top1 - now.interval[0], was.interval[1] - was.top1)
        up = math.hypot(now.interval[1] - now.top1, was.top1 - was.interval[0])
        interval = (amount - down, amount + up)
    finding: Finding = "within noise"
    if not interval[0] <= 0 <= interval[1]:
        finding = "better" if amount > 0 else "worse"
    return MetricChange(
        metric="accuracy", unit="share", old=was.top1, new=now.top1, ratio=None, interval=interval, finding=finding
    )


def _paired(was: AccuracyRecord, now: AccuracyRecord, confidence: float) -> Interval | None:
    if was.images_sha256 is None or was.images_sha256 != now.images_sha256:
        return None
    before, after = _right(was), _right(now)
    if before is None or after is None or len(before) != len(after):
        return None
    gained, lost = int(np.sum(after & ~before)), int(np.sum(before & ~after))
    return paired_interval(gained, lost, len(before), NormalDist().inv_cdf((1 + confidence) / 2))


def _right(accuracy: AccuracyRecord) -> NDArray[np.bool_] | None:
    """(images,) whether the engine was right; None where the record does not say it of every image."""
    if accuracy.right is None or len(accuracy.right) != 2 * math.ceil(accuracy.images / 8):
        return None
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(accuracy.right), dtype=np.uint8))
    return bits[: accuracy.images].astype(bool)


def _machine(old: VerificationRecord, new: VerificationRecord) -> MachineSpeed | None:
    """From sentinels, which both verifications compare with one table."""
    was, now = (record.comparison.drift if record.comparison else None for record in (old, new))
    if was is None or now is None or old.table_sha256 is None or old.table_sha256 != new.table_sha256:
        return None
    ratios = {key: now.sentinels[key] / was.sentinels[key] for key in sorted({*was.sentinels} & {*now.sentinels})}
    if not ratios:
        return None
    machine = median(ratios.values())
    network = new.measured.median.latency_ms / old.measured.median.latency_ms
    return MachineSpeed(ratio=machine, sentinels=ratios, network_ratio=network / machine)


def _budgets(old: VerificationRecord, new: VerificationRecord) -> tuple[BudgetChange, ...]:
    metrics = dict.fromkeys(each.metric for each in (*new.budgets, *old.budgets))
    found = []
    for metric in metrics:
        was, now = old.budget(metric), new.budget(metric)
        found.append(
            BudgetChange(
                metric=metric,
                old_target=was.target if was else None,
                new_target=now.target if now else None,
                old=was.verdict if was else None,
                new=now.verdict if now else None,
                headroom=headroom(metric, now.value, now.target) if now else None,
            )
        )
    return tuple(found)


def headroom(metric: str, value: float | None, target: float) -> float | None:
    """How far a value lies within its target, relative to the target; below zero beyond it."""
    if value is None or target <= 0:
        return None
    return value / target - 1 if metric in AT_LEAST else 1 - value / target


def _findings(
    same: bool,
    changes: tuple[MetricChange, ...],
    budgets: tuple[BudgetChange, ...],
    machine: MachineSpeed | None,
    simulated: bool,
) -> tuple[str, ...]:
    mark = "SIMULATED: " if simulated else ""
    lines = [mark + describe_change(change) for change in changes if change.metric != "p90_ms"]
    for each in budgets:
        if each.new is None:
            lines.append(f"the budget of {LABELS[each.metric]} was not asked in the new verification")
            continue
        was = "not asked before" if each.old is None else f"{each.old} before"
        left = "" if each.headroom is None else f", headroom {100 * each.headroom:.1f} %"
        line = f"{LABELS[each.metric]} budget: {each.new} ({was}{left})"
        if each.old_target is not None and each.old_target != each.new_target:
            line += f"; the target changed from {each.old_target:g} to {each.new_target:g}"
        lines.append(line)
    if machine is not None:
        lines.append(
            f"the machine takes {_percent(machine.ratio)} for all sentinel operators; the network alone, "
            f"{_percent(machine.network_ratio)}"
        )
    lines.append("same model file" if same else "the model files differ: a change may come from the network")
    return tuple(lines)


def _percent(ratio: float) -> str:
    return f"{100 * abs(ratio - 1):.1f} % {'more' if ratio >= 1 else 'less'} time"


def _remedy(
    same: bool,
    changes: tuple[MetricChange, ...],
    budgets: tuple[BudgetChange, ...],
    machine: MachineSpeed | None,
    new: VerificationRecord,
) -> str:
    """What to do next."""
    slower = any(change.metric in LATENCY_FIELDS and change.finding == "worse" for change in changes)
    lost = [each for each in budgets if each.old == "met" and each.new != "met"]
    if lost and new.remedy:
        return new.remedy
    if slower and machine is not None and machine.ratio - 1 > abs(machine.network_ratio - 1):
        return "the whole machine is slower: compare clocks, power mode and cooling before you change the network"
    if slower and same:
        return (
            "the network is slower on this software or board: compare the layers of both, and profile the table again"
        )
    if slower:
        return "the new network is slower: decide whether its accuracy pays for it"
    if any(change.finding == "unknown" for change in changes if change.metric == "latency_ms"):
        return "verify both with more rounds, so that the latency has an interval"
    return "nothing to do"
