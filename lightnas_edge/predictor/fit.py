"""Fit an additive predictor: a table as prior, measured networks as evidence, another board's predictor instead of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

import luts
from lightnas_edge.errors import PredictorError
from lightnas_edge.measuring.commands import sample_command
from lightnas_edge.predictor._evidence import Evidence
from lightnas_edge.predictor.additive import AdditivePredictor
from lightnas_edge.predictor.applicability import UNMEASURED, ApplicabilityDomain, usual_limit
from lightnas_edge.predictor.base import Array, Origin
from lightnas_edge.predictor.calibration import calibrate, leave_one_out, probable_growth
from lightnas_edge.predictor.distance import DistantDiscrepancy
from lightnas_edge.predictor.joint import Joint
from lightnas_edge.predictor.metrics import checked
from lightnas_edge.predictor.observations import Observations, load_observations
from lightnas_edge.predictor.priors import Entries, Prior, informed_prior, physical_prior, table_prior
from lightnas_edge.predictor.terms import Terms
from lightnas_edge.predictor.transfer import speed_ratio, transfer_prior
from lightnas_edge.records.differences import require_equal_fingerprints
from lightnas_edge.records.predictor import Calibration, FitRecord, TransferSource
from lightnas_edge.space import Space

_EVIDENCE_NETWORKS = 200  # more networks hardly change the prior scales


def lut_predictor(space: Space, lut: luts.Lut, *, metric: str = "latency_ms") -> AdditivePredictor:
    """The table alone: the sum of its entries, with the uncertainty that such sums usually have.

    For a latency it is the sum of the operators' robust costs: an estimate of the median without the machine's noise.

    Raises:
        LutMissError: the table lacks operators of the space, or this metric of some; names them all.
        PredictorError: the table is of another space; there is no such metric, or it is one of whole networks alone.
    """
    if metric in luts.NETWORK_METRICS:
        raise PredictorError(
            f"a table of operators does not give {metric} of a network: a sum of robust costs has no tail",
            hint=f"measure whole networks: {sample_command(space, lut.fingerprint)}; then `lightnas-edge fit "
            f"--space {space.option} --lut FILE --samples FILE --metric {metric}`",
        )
    return _fit(space, lut, None, checked(metric))


def fit_additive(
    space: Space,
    lut: luts.Lut | None,
    samples: Sequence[luts.Lut] | Observations,
    *,
    metric: str | None = None,
    prior: AdditivePredictor | None = None,
) -> AdditivePredictor:
    """The table as prior, measured networks as evidence; without samples the table alone, without a table the samples.

    Args:
        metric: what to predict; that of the observations, or latency_ms, when None.
        prior: predictor of another board, power mode or batch size; the networks scale and correct its costs. It takes
            the place of a table.

    Raises:
        LutMissError: the table lacks operators of the space, or the metric of some.
        PredictorError: neither a table nor samples; networks of another space, or measured without the metric.
        FingerprintError: files of different boards or states.
    """
    if isinstance(samples, Observations):
        observations: Observations | None = samples.merged()
        if metric not in (None, samples.metric):
            raise PredictorError(f"the measured networks are of {samples.metric}, not of {metric}")
        if lut is not None:
            require_equal_fingerprints(lut.fingerprint, samples.fingerprint, "the table and the measured networks")
    else:
        observations = load_observations(space, samples, lut, metric=metric or "latency_ms") if samples else None
    if observations is None and lut is not None and prior is None:
        return lut_predictor(space, lut, metric=metric or "latency_ms")
    metric = checked(metric or (observations.metric if observations else "latency_ms"))
    if prior is not None:
        if lut is not None or observations is None:
            raise PredictorError(
                "a predictor is transferred to another board with measured networks of that board, and without a table",
                hint=f"measure the reference networks of the board: {sample_command(space, None, '--count', '10')}",
            )
        if prior.space.sha256 != space.sha256 or prior.metric != metric:
            raise PredictorError(
                f"the prior is of {prior.metric} in space {prior.space.name}, the networks are of {metric} in {space.name}"
            )
    if lut is None and observations is None:
        raise PredictorError("a predictor needs a table, measured networks, or both")
    return _fit(space, lut, observations, metric, prior)


def _fit(
    space: Space,
    lut: luts.Lut | None,
    observations: Observations | None,
    metric: str,
    other: AdditivePredictor | None = None,
) -> AdditivePredictor:
    terms = Terms.of(space)
    if observations is None:
        assert lut is not None
        prior = table_prior(Entries.of(terms, lut, metric))
        fitted = FittedScales(prior.scales)
        joint = Joint(*prior.costs(fitted.scales))
    else:
        if other is not None:
            prior = transfer_prior(terms, other, observations)
        elif lut is None:
            prior = physical_prior(terms, float(np.median(observations.value)))
        else:
            entries = Entries.of(terms, lut, metric)
            first = _posterior(informed_prior(terms, entries, entries.value), terms, observations)[0]
            # Once more, now that the costs are known better: the scale factor of a table is one on costs, not on its own errors.
            prior = informed_prior(terms, entries, first.mean[: 1 + len(terms.keys)])
        joint, fitted, seen = _posterior(prior, terms, observations)
    mean, covariance = joint.costs(1 + len(terms.keys))
    scales = {name: value for name, value in fitted.scales.items() if name != "noise"}
    noise = discrepancy = fitted.scales["noise"]
    applicability = UNMEASURED
    calibration = leave_one_out_rmse = distant = None
    if observations is not None:
        # A measurement differs by the discrepancy of the model and by the mean error of measuring.
        noise = math.sqrt(discrepancy**2 + float(np.mean(observations.standard_error**2)))
        counts = terms.counts(observations.indices)
        variance = discrepancy**2 + observations.standard_error**2
        held_out = leave_one_out(joint.mean, joint.covariance, seen, observations.value, variance)
        stated = np.hypot(held_out.model_std, noise)
        distant = DistantDiscrepancy.of(terms, counts)
        if distant is not None:
            # What the networks take for noise of each may all be of this kind; how it grows, their residuals show.
            distant = replace(distant, step_std=discrepancy)
            growth = probable_growth(held_out.residual, stated, distant.std(counts), fitted.decided)
            distant = replace(distant, step_std=growth * discrepancy)
            stated = np.hypot(stated, distant.std(counts))
        found = calibrate(held_out.residual / stated, fitted.decided)
        factor = found.std_factor
        # One factor on all of it: later updates keep their weights, and every interval gets its calibrated width.
        covariance, noise, discrepancy = factor**2 * covariance, factor * noise, factor * discrepancy
        distant = None if distant is None else replace(distant, step_std=factor * distant.step_std)
        blocks = counts[:, 1:].sum(axis=1)
        applicability = ApplicabilityDomain(
            "measured",
            (float(observations.value.min()), float(observations.value.max())),
            (int(blocks.min()), int(blocks.max())),
            factor * usual_limit(held_out.model_std),
        )
        calibration = Calibration(
            std_factor=_rounded(factor),
            degrees_of_freedom=_rounded(found.degrees_of_freedom),
            heavy_tails=found.heavy_tails,
        )
        leave_one_out_rmse = _rounded(float(np.sqrt(np.mean(held_out.residual**2))))
    source = lut if lut is not None else observations
    assert source is not None
    simulated = source.simulated or (observations is not None and observations.simulated)
    transfer = None
    if other is not None:
        assert observations is not None
        simulated |= other.simulated
        transfer = TransferSource(
            fingerprint=other.fingerprint, networks=other.fit.networks, simulated=other.simulated,
            ratio=_rounded(speed_ratio(other, observations)),
        )  # fmt: skip
    fit = FitRecord(
        method=prior.name if observations is None else f"{prior.name}, Bayesian linear regression on whole networks",
        networks=0 if observations is None else len(observations),
        calibration=calibration,
        prior_scales={name: _rounded(value) for name, value in {**scales, "noise": noise}.items()},
        leave_one_out_rmse=leave_one_out_rmse,
        alignment=() if observations is None else observations.notes,
        prior=transfer,
    )
    origin = Origin(source.fingerprint, simulated, source.batch, metric, fit)
    return AdditivePredictor(
        space, origin, mean, covariance, noise, discrepancy=discrepancy, distant=distant, applicability=applicability,
        terms=terms,
    )  # fmt: skip


def _posterior(prior: Prior, terms: Terms, observations: Observations) -> tuple[Joint, FittedScales, Array]:
    """The costs and the sessions' unknowns after the networks; the scales; (n, 1 + P + S) what a network has of each unknown."""
    fitted = fit_scales(prior, terms, observations)
    variance = observations.standard_error**2 + fitted.scales["noise"] ** 2
    counts, costs = terms.counts(observations.indices), Joint(*prior.costs(fitted.scales))
    # The sessions' errors are proportional to the costs: those without the sessions serve, which lack most of the noise.
    smooth = costs.after(counts, observations.value, variance).mean
    common = observations.common_error_of(counts @ smooth)
    seen = np.concatenate([counts, common], axis=1)
    return costs.with_sessions(common).after(seen, observations.value, variance), fitted, seen


def _common_error(prior: Prior, counts: Array, observations: Observations) -> Array:
    """(n, S) of (n, 1 + P) networks, in proportion to what they cost before any is measured, at the level of the measured ones."""
    before = counts @ prior.mean
    level = float(np.median(observations.value)) / max(float(np.median(before)), 1e-300)
    return observations.common_error_of(level * before)


@dataclass(frozen=True)
class FittedScales:
    """The most probable prior scales, with the noise."""

    scales: dict[str, float]
    decided: float = 0.0  # how many of them the networks decided, in effect


def fit_scales(prior: Prior, terms: Terms, observations: Observations) -> FittedScales:
    """The maximum of marginal likelihood times a broad prior on each scale."""
    if len(observations) > _EVIDENCE_NETWORKS:
        chosen = np.random.default_rng(0).permutation(len(observations))[:_EVIDENCE_NETWORKS]
        observations = observations.take(chosen)
    count = len(observations)
    counts = terms.counts(observations.indices)
    unit = float(np.median(observations.value))
    residual = (observations.value - counts @ prior.mean) / unit
    common = _common_error(prior, counts, observations) / unit
    known = np.diag((observations.standard_error / unit) ** 2) + common @ common.T
    noisy = np.ones(count)
    seen = {name: counts @ part.costs / unit for name, part in prior.parts.items()}
    if prior.table is not None:
        entries = len(prior.table)
        residual = np.concatenate([residual, (prior.table - prior.mean) / unit])
        known, noisy = np.pad(known, (0, entries)), np.pad(noisy, (0, entries))
        seen = {name: np.concatenate([seen[name], part.entries / unit]) for name, part in prior.parts.items()}
    kernels = [*(rows @ rows.T for rows in seen.values()), np.diag(noisy) / unit**2]
    defaults, factors = list(prior.scales.values()), list(prior.factors.values())
    # More threads make such small matrices up to 50 times slower (measured).
    with threadpool_limits(1, user_api="blas"):
        evidence = Evidence(kernels, residual, known, defaults, factors)
        found = evidence.most_probable()
        decided = evidence.decided(found)
        if prior.table is not None:
            alone = Evidence(
                [kernel[count:, count:] for kernel in kernels],
                residual[count:],
                known[count:, count:],
                defaults,
                factors,
            )
            decided = max(decided - alone.decided(found), 0.0)
    return FittedScales(dict(zip(prior.scales, found.tolist(), strict=True)), decided)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
