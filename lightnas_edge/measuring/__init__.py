"""From a search space to measurements: job directories, and running them on a board."""

from lightnas_edge.measuring.campaign import measure
from lightnas_edge.measuring.jobs import (
    ROUND_S,
    SENTINELS,
    Job,
    MeasurementProtocol,
    Settings,
    model_key,
    network_key,
    profile_job_name,
    reference_architectures,
    sample_architectures,
    select_operators,
    sentinels,
    write_model_job,
    write_profile_job,
    write_sample_job,
    write_verify_job,
)

__all__ = [
    "ROUND_S",
    "SENTINELS",
    "Job",
    "MeasurementProtocol",
    "Settings",
    "measure",
    "model_key",
    "network_key",
    "profile_job_name",
    "reference_architectures",
    "sample_architectures",
    "select_operators",
    "sentinels",
    "write_model_job",
    "write_profile_job",
    "write_sample_job",
    "write_verify_job",
]
