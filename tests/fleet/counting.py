"""Counting visits in packets and in tables."""

import collections

from lightnas_edge.fleet.work import Visits


def total(packets):
    rounds, energy = collections.Counter(), collections.Counter()
    for packet in packets:
        for key, visits in packet.work.items():
            rounds[key] += visits.rounds
            energy[key] += visits.energy_rounds
    return {key: Visits(rounds[key], energy[key]) for key in rounds}


def visits_of(*tables):
    """How often each key was measured, over all tables; a visit that stands twice counts twice."""
    return collections.Counter(visit.key for lut in tables for visit in lut.visits if not visit.error)


def places(lut):
    return collections.Counter((visit.key, visit.session, visit.round) for visit in lut.visits)
