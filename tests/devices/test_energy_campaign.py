"""Energy from the flag to the table, on a virtual board."""

import devices
from lightnas_edge.measuring import MeasurementProtocol, Settings, measure, write_profile_job
from lightnas_edge.space import load_space

SPACE = load_space("tiny")
OPERATORS = SPACE.shaped_operators()[::6]


def profile(connection, folder, energy_rounds):
    protocol = MeasurementProtocol(rounds=3, samples_per_visit=2, min_sample_ms=1.0, extra_rounds=0)
    settings = Settings(backend="simulated", precision="fp16", protocol=protocol, energy_rounds=energy_rounds)
    job = write_profile_job(folder / "job", SPACE, settings, operators=OPERATORS)
    return measure(connection, job, folder / "table.lut.jsonl")


def known(visit):
    return visit.group, visit.t_s, visit.repeats, visit.samples_ms


def test_energy_is_added_to_a_table_that_has_latency_only(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    connection = devices.connect("virtual:jetson-orin-nano")
    before = profile(connection, tmp_path, energy_rounds=0)

    after = profile(connection, tmp_path, energy_rounds=1)

    assert all(entry.energy_mj is None for entry in before.entries.values())
    assert after.header.energy.available
    for key in (shaped.key for shaped in OPERATORS):
        entry = after.entries[key]
        assert len(entry.visits) == 4
        assert [known(visit) for visit in entry.visits[:3]] == [known(visit) for visit in before.entries[key].visits]
        energy = entry.energy_mj
        assert 0 < energy.net_mj < energy.gross_mj
        assert energy.gross_interval_mj[0] < energy.gross_mj < energy.gross_interval_mj[1]
    extra_operators = set(before.entries) - {shaped.key for shaped in OPERATORS}
    assert extra_operators  # the sentinels, for latency alone: energy takes half a minute for each
    assert all(after.entries[key].energy_mj is None for key in extra_operators)
    frame = after.to_frame().set_index("key").drop(index=list(extra_operators))
    assert (frame["energy_gross_mj"] > frame["energy_net_mj"]).all()


def test_a_total_that_cannot_be_read_leaves_latency_and_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    connection = devices.connect("virtual:jetson-orin-nano")
    (label,) = (path for path in connection.root.rglob("in*_label") if path.read_text().strip() == "VDD_IN")
    label.write_text("ANOTHER\n")

    lut = profile(connection, tmp_path, energy_rounds=1)

    assert not lut.header.energy.available
    assert "VDD_IN" in lut.header.energy.reason
    assert len(lut.entries) > 3
    assert all(entry.energy_mj is None for entry in lut.entries.values())
