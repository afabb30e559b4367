"""`import lightnas_edge as le`: quick, typed, and enough for the whole work; what a notebook shows of it."""

import ast
import html
import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import lightnas_edge as le
from lightnas_edge.records.html_table import MOST_ROWS, html_table

ROOT = Path(__file__).parents[1]


def test_importing_it_loads_nothing_heavy_and_one_name_loads_what_it_needs_only():
    code = (
        "import sys, lightnas_edge as le; heavy = ('torch', 'pandas', 'matplotlib', 'numpy', 'pydantic', 'paramiko')\n"
        "print([name for name in heavy if name in sys.modules]); le.load_space('tiny')\n"
        "print([name for name in ('torch', 'pandas', 'matplotlib') if name in sys.modules], 'Space' in dir(le))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.split("\n")[:2] == ["[]", "[] True"]


def test_the_inference_runtime_keeps_no_telemetry(tmp_path):
    """With telemetry on, version 1.32 keeps a data base below the home folder and a session file from its import on."""
    names = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    names.pop("ORT_DISABLE_TELEMETRY", None)
    code = "import sys, lightnas_edge as le; le.SearchConfig; print('onnxruntime' in sys.modules)"

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=names)

    assert run.stdout == "True\n"
    assert [path.name for path in tmp_path.rglob("*") if "onnxruntime" in path.name or "ort" in path.name] == []


def test_type_checkers_and_python_find_the_same_names_in_the_same_modules():
    tree = ast.parse((ROOT / "lightnas_edge" / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = [
        node for node in tree.body if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    ]
    seen = {alias.asname or alias.name: (node.module, alias.name) for node in typed.body for alias in node.names}

    assert seen == le._PLACES
    assert set(le.__all__) == {*seen, "__version__"}
    assert not set(seen) & {path.stem for path in (ROOT / "lightnas_edge").iterdir()}  # a submodule would hide the name


def test_every_name_is_there_and_an_unknown_one_is_an_attribute_error():
    assert all(getattr(le, name) is not None for name in le.__all__)
    with pytest.raises(AttributeError, match="no attribute 'measure_everything'"):
        le.measure_everything  # noqa: B018


def test_another_projects_package_in_the_place_of_ours_is_named(tmp_path):
    (tmp_path / "luts.py").write_text("LUT = 1\n")
    code = "import lightnas_edge as le\ntry:\n    le.Lut\nexcept Exception as error:\n    print(type(error).__name__, error)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    assert run.stdout.startswith("ForeignPackageError another package luts has taken the place"), run.stderr


def test_tables_escape_what_they_show_and_count_what_they_leave_out():
    text = html_table("<b>", ("a",), [["<script>\x1b[31m"]] * (MOST_ROWS + 2), note="done")

    assert "<script>" not in text and "<b>" not in text and "\x1b" not in text
    assert text.count("<tr>") == 1 + MOST_ROWS
    assert "2 more rows; done" in text


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Every step on a virtual board: nothing waits for this machine's clock."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("door")
        patch.chdir(folder)
        patch.setenv("LIGHTNAS_EDGE_HOME", str(folder / "home"))
        host = "virtual:jetson-nano"
        space = le.load_space("tiny")
        operators = le.measure_operators(space, host, rounds=4)
        networks = le.measure_networks(space, host, count=12, rounds=4)
        predictor = le.fit_predictor(space, operators, networks, out=Path("nano.predictor.json"))
        reach = le.reachable_range(predictor)
        limits = [
            {"latency_ms": float(f"{reach.lowest + share * (reach.median - reach.lowest):.3g}")} for share in (0.6, 0.9)
        ]
        data = le.load_data("digits", space=space)
        search = le.search_networks(
            predictor, limits, data, "run", config=le.SearchConfig(epochs=2, batch=128), table=operators, host=host
        )
        run = search.runs[0]
        training = le.train_run(run, data, config=le.TrainConfig(epochs=1, batch=128))
        export = le.export_run(run)
        verification = le.verify_run(run, targets={"p95_ms": 1000.0}, rounds=8)
        report = le.report_run(run)
        yield dict(locals())


def test_the_steps_follow_each_other_to_a_report(work):
    assert work["operators"].coverage([one.key for one in work["space"].shaped_operators()]).complete
    assert work["predictor"].fit.networks == 12
    assert len(work["search"]) == 2
    assert all(result.predicted["latency_ms"] <= result.budget.targets["latency_ms"] for result in work["search"])
    assert work["training"].initial.source == "supernet"
    assert work["export"].path.exists()
    assert {each.metric for each in work["verification"].record.budgets} == {"latency_ms", "p95_ms"}
    assert work["verification"].record.simulated
    assert "SIMULATED" in work["report"].html.read_text(encoding="utf-8")


def test_the_same_search_again_is_the_same_and_another_is_refused(work):
    again = le.search_networks(
        work["predictor"], work["limits"], work["data"], work["folder"] / "run",
        config=le.SearchConfig(epochs=2, batch=128), table=work["operators"], host=work["host"],
    )  # fmt: skip
    assert [result.architecture for result in again] == [result.architecture for result in work["search"]]
    with pytest.raises(le.LightnasEdgeError, match="another search"):
        le.search_networks(
            work["predictor"], work["limits"], work["data"], work["folder"] / "run", config=le.SearchConfig(epochs=3, batch=128)
        )  # fmt: skip


def test_two_predictors_of_one_metric_are_refused(work):
    with pytest.raises(le.LightnasEdgeError, match="two predictors of one metric"):
        le.search_networks([work["predictor"]] * 2, {"latency_ms": 1.0}, work["data"], "run")


def test_a_predictor_file_names_its_table(work):
    assert le.load_predictor(Path(work["folder"] / "nano.predictor.json")).fit.lut == work["operators"].path.name


SHOWN = {
    "space": ("<Space tiny: 8 searchable layers", "mbconv_k3_e3"),
    "operators": ("operators and 0 networks", "latency ms"),
    "networks": ("and 12 networks", "net-"),
    "predictor": ("Predictor SIMULATED: latency_ms of tiny at batch 1", "90 % PI coverage"),
    "search": ("<Search run: 2 networks: SIMULATED, predicted", "supernet accuracy"),
    "run": ("<Run run", "verification.json"),
    "verification": ("<Verification on virtual:jetson-nano: SIMULATED p50", "p95 latency"),
    "report": ("Report(html=", "report.html"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_shows_what_matters(work, name):
    line, cell = SHOWN[name]
    shown = work[name]._repr_html_()

    assert line in repr(work[name])
    assert cell in html.unescape(shown)
    assert len(repr(work[name])) < 600
    if name not in ("space", "run"):
        assert "SIMULATED" in shown


def texts(figure):
    from matplotlib.text import Text

    return " | ".join(each.get_text() for each in figure.findobj(Text) if each.get_text())


def test_plots_are_figures_that_state_unit_origin_and_budget(work):
    entry = next(iter(work["networks"].networks.values()))
    figures = {
        "latency": le.plot_latency(work["verification"]),
        "of one network": le.plot_latency(entry),
        "predictions": le.plot_predictions(work["predictor"], work["verification"]),
        "front": le.plot_front(work["search"].run),
        "costs": le.plot_operator_costs(work["operators"]),
    }

    for name, figure in figures.items():
        assert isinstance(figure, Figure), name
        assert " in ms" in texts(figure), name
        assert figure._repr_png_().startswith(b"\x89PNG"), name  # a notebook shows it, with pyplot or without
        if name != "of one network":
            assert "SIMULATED" in texts(figure), name
    assert "budget of p95" in texts(figures["latency"])
    assert "the network found" in texts(figures["predictions"])
    bars = max(len(each.patches) for each in figures["costs"].axes)
    assert bars == min(40, len(work["operators"].entries))
    assert sum(patch.get_height() for patch in figures["of one network"].axes[0].patches) <= len(entry.samples_ms)


def test_a_plot_without_numbers_says_what_is_missing(work):
    alone = le.fit_predictor(work["space"], work["operators"])
    with pytest.raises(le.LightnasEdgeError, match="no held-out networks"):
        le.plot_predictions(alone)
    with pytest.raises(le.LightnasEdgeError, match="missing: nothing"):
        le.plot_operator_costs(work["operators"], ["nothing"])
