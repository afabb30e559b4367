"""`search` at the command line: many targets and boards, budgets added later, and what is refused."""

import json
import shutil
import subprocess
import sys

import pytest

from lightnas_edge.cli import main
from lightnas_edge.cli._budgets import targets
from lightnas_edge.nn.checkpoint import load_checkpoint, save_checkpoint
from lightnas_edge.predictor.files import load_predictor
from lightnas_edge.search.state import SCHEMA
from tests.search.problems import predictor
from tests.search.test_many_budgets import other_board
from tests.search.test_precisions import measured

QUICK = ["--data", "digits", "--epochs", "2", "--batch-size", "64", "--workers", "0"]


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    """Predictor files of two boards of the small space."""
    folder = tmp_path_factory.mktemp("boards")
    for name, held in (("near", predictor()), ("far", other_board())):
        held.save(folder / f"{name}.predictor.json")
    return folder


@pytest.fixture(scope="module")
def run(boards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search") / "run"
    named = f"{boards / 'near.predictor.json'},{boards / 'far.predictor.json'}"
    code = main([
        "search", "--boards", named, "--targets", "8:10:2", "--params-m", "0.5", "--tensorboard", "--out", str(folder), *QUICK,
    ])  # fmt: skip
    assert code == 0
    return folder


def test_boards_times_targets_each_get_a_network(run):
    networks = json.loads((run / "front.json").read_text())["networks"]

    assert [row["name"] for row in networks] == ["far-8ms", "far-10ms", "near-8ms", "near-10ms"]
    for row in networks:
        assert set(row["metrics"]) == {"latency_ms", "params_m"}
        assert all(metric["value"] <= metric["target"] for metric in row["metrics"].values())
    assert (run / "front.svg").read_text().startswith("<svg")
    assert load_predictor(run / "networks" / "far-8ms" / "predictor.json").fingerprint == {"board": "other"}


def test_tensorboard_gets_a_file(run):
    assert list((run / "search" / "tensorboard").glob("events.out.tfevents.*"))


def test_a_network_of_many_is_trained_like_any_other(run, capsys):
    code = main(["train", str(run / "networks" / "near-8ms"), "--epochs", "1", "--batch-size", "64"])

    assert code == 0
    assert "trained 1 epochs" in capsys.readouterr().out


def test_a_budget_is_added_for_the_boards_of_the_run_or_for_another(run, boards, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)

    assert main(["search", "--from", str(copy), "--latency-ms", "9", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {"far-9ms", "near-9ms"} <= {row["name"] for row in answer["networks"]}

    near = str(boards / "near.predictor.json")
    assert main(["search", "--from", str(copy), "--predictor", near, "--latency-ms", "7"]) == 0
    assert "networks/near-7ms/architecture.json" in capsys.readouterr().out


def test_a_second_board_is_added_to_a_search_of_one(boards, tmp_path, capsys):
    near, far = str(boards / "near.predictor.json"), str(boards / "far.predictor.json")
    run = str(tmp_path / "run")
    assert main(["search", "--predictor", near, "--targets", "8,10", "--out", run, "--device", "cpu", *QUICK]) == 0

    assert main(["search", "--from", run, "--predictor", far, "--targets", "8,10"]) == 0
    assert main(["search", "--from", run, "--boards", f"{far},{near}", "--latency-ms", "9"]) == 0
    capsys.readouterr()
    assert main(["search", "--from", run, "--latency-ms", "7", "--json"]) == 0

    networks = json.loads(capsys.readouterr().out)["networks"]
    boards_of = {row["name"]: row["board"] for row in networks}
    near_ones, far_ones = ("8ms", "10ms", "9ms", "7ms"), ("far-8ms", "far-10ms", "far-9ms", "far-7ms")
    assert boards_of == {**dict.fromkeys(near_ones, "imagined"), **dict.fromkeys(far_ones, "far")}
    for name, board in boards_of.items():
        held = load_predictor(tmp_path / "run" / "networks" / name / "predictor.json")
        assert held.fingerprint == {"board": "other" if board == "far" else "imagined"}


def test_what_a_search_has_settled_does_not_go_with_from(run, capsys):
    assert main(["search", "--from", str(run), "--latency-ms", "9", "--epochs", "7", "--seed", "3"]) == 2

    assert "--epochs, --seed cannot be combined with --from" in capsys.readouterr().err


def test_two_files_for_one_metric_of_one_board_are_refused(boards, tmp_path, capsys):
    near = str(boards / "near.predictor.json")

    assert main(["search", "--predictor", near, "--predictor", near, "--latency-ms", "9", *QUICK]) == 1

    assert "a second predictor of latency_ms" in capsys.readouterr().err


def test_files_of_the_same_name_are_separated_by_their_folders(boards, tmp_path, capsys):
    for name in ("near", "far"):
        (tmp_path / name).mkdir()
        shutil.copy(boards / f"{name}.predictor.json", tmp_path / name / "predictor.json")
    named = ",".join(str(tmp_path / name / "predictor.json") for name in ("near", "far"))

    assert (
        main(["search", "--boards", named, "--latency-ms", "8", "--out", str(tmp_path / "run"), *QUICK, "--json"]) == 0
    )

    networks = json.loads(capsys.readouterr().out)["networks"]
    assert {row["name"] for row in networks} == {"near-predictor-8ms", "far-predictor-8ms"}


@pytest.mark.parametrize("command", [["train"], ["export"], ["verify", "--host", "localhost"], ["refine"]])
def test_of_several_networks_one_must_be_named(run, capsys, command):
    assert main([command[0], str(run), *command[1:]]) == 1

    answer = capsys.readouterr().err
    assert "networks: name one of them" in answer and "near-8ms" in answer


def test_a_name_that_is_taken_is_not_overwritten(run, capsys):
    assert main(["search", "--from", str(run), "--latency-ms", "8"]) == 1

    assert "already holds a network, found for latency_ms 8 and params_m 0.5" in capsys.readouterr().err


def test_the_same_budget_again_keeps_the_network_that_was_found(run, capsys):
    before = {path: path.read_bytes() for path in run.rglob("*.json")}
    assert main(["search", "--from", str(run), "--latency-ms", "8", "--params-m", "0.5"]) == 0

    printed = capsys.readouterr()
    assert "found before and is kept" in printed.err and "nothing to add" in printed.out
    assert {path: path.read_bytes() for path in run.rglob("*.json")} == before


@pytest.mark.parametrize(
    ("arguments", "code", "answer"),
    [
        (["--latency-ms", "0.5"], 3, "the range is 1 to 17 ms"),
        (["--latency-ms", "1.5", "--params-m", "0.000001"], 3, "no network of space small keeps params_m"),
        (["--latency-ms", "9", "--targets", "8,9"], 2, "--targets and --latency-ms both limit the latency"),
        ([], 2, "a search needs a budget"),
        (["--energy-mj", "100"], 1, "no predictor of energy_mj for near"),
        (["--targets", "8,9", "--method", "lightnas"], 2, "searches once per budget; 2 are given"),
        (["--latency-ms", "9", "--space", "tiny"], 1, "was fitted for space 'small'"),
    ],
)
def test_what_cannot_be_searched_is_reported_before_anything_is_read(boards, tmp_path, capsys, arguments, code, answer):
    out = tmp_path / "run"

    found = main(["search", "--predictor", str(boards / "near.predictor.json"), "--out", str(out), *QUICK, *arguments])

    assert (found, out.exists()) == (code, False)
    assert answer in capsys.readouterr().err


def test_a_budget_that_every_network_keeps_needs_force(boards, tmp_path, capsys):
    command = [
        "search", "--predictor", str(boards / "near.predictor.json"), "--latency-ms", "17", "--out", str(tmp_path / "run"), *QUICK,
    ]  # fmt: skip

    assert main(command) == 2
    answer = capsys.readouterr().err
    assert "17ms: the budget is not binding; the slowest network of this space takes 17 ms" in answer
    assert "--force" in answer and not (tmp_path / "run").exists()

    assert main([*command, "--force"]) == 0
    answer = capsys.readouterr().err
    assert "warning: 17ms: the budget is not binding; the slowest network of this space takes 17 ms" in answer


def test_an_impossible_budget_is_refused_without_further_warnings(boards, tmp_path, capsys):
    main([
        "search", "--predictor", str(boards / "near.predictor.json"), "--latency-ms", "17", "--params-m", "0.0001",
        "--out", str(tmp_path / "run"), *QUICK,
    ])  # fmt: skip
    assert "not binding" not in capsys.readouterr().err, "an impossible budget is refused first"


def test_a_data_set_of_one_class_is_refused(boards, tmp_path, capsys):
    from PIL import Image

    (tmp_path / "images" / "train" / "only").mkdir(parents=True)
    for name in "ab":
        Image.new("RGB", (16, 16)).save(tmp_path / "images" / "train" / "only" / f"{name}.png")

    found = main([
        "search", "--predictor", str(boards / "near.predictor.json"), "--latency-ms", "9", "--data", str(tmp_path / "images"),
        "--out", str(tmp_path / "run"),
    ])  # fmt: skip

    assert found == 1
    assert "only one class, 'only': there is nothing to tell apart" in capsys.readouterr().err


def test_targets_are_lists_or_ranges():
    assert targets("20:30:2") == [20, 22, 24, 26, 28, 30]
    assert targets("0.3:0.5:0.1") == pytest.approx([0.3, 0.4, 0.5])
    assert targets("20,24.5") == [20, 24.5]
    for text in ("30:20:2", "20:30", "a", "20:30:0", "1:1000000:0.1"):
        with pytest.raises(Exception, match=r"expected 20,22,24 or 20:30:2|makes"):
            targets(text)


def test_two_processes_search_at_the_command_line(boards, tmp_path):
    ran = two_processes(boards, tmp_path / "run")

    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.count("found ") == 1
    assert (tmp_path / "run" / "architecture.json").exists()


def test_what_the_first_process_refuses_is_reported_once_and_without_a_traceback_of_the_other(boards, tmp_path):
    (tmp_path / "something.txt").write_text("else")

    ran = two_processes(boards, tmp_path)

    assert ran.returncode != 0
    assert ran.stderr.count("is not empty and holds no run") == 1
    assert "RuntimeError" not in ran.stderr


def two_processes(boards, out):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python",
        sys.executable, "-c", "import sys; from lightnas_edge.cli import main; sys.exit(main(sys.argv[1:]))",
        "search", "--predictor", str(boards / "near.predictor.json"), "--latency-ms", "9", "--out", str(out),
        *QUICK, "--device", "cpu",
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def precisions(tmp_path_factory):
    """Predictor files of one board in two precisions, and a search in both."""
    folder = tmp_path_factory.mktemp("precisions")
    for name, found in (
        ("near-fp32", measured("fp32")),
        ("near-int8", measured("int8", 0.5, dialect="ort")),
    ):
        found.save(folder / f"{name}.predictor.json")
    both = [part for name in ("fp32", "int8") for part in ("--predictor", str(folder / f"near-{name}.predictor.json"))]
    code = main(["search", *both, "--latency-ms", "6", "--out", str(folder / "run"), "--device", "cpu", *QUICK])
    return folder, both, code


def test_a_search_in_two_precisions_names_the_best_network_and_why(precisions, capsys):
    folder, both, code = precisions

    assert code == 0
    front = json.loads((folder / "run" / "front.json").read_text())
    assert {(row["name"], row["precision"]) for row in front["networks"]} == {
        ("fp32-6ms", "fp32"),
        ("int8-6ms", "int8"),
    }
    (best,) = front["best"]
    assert main(["search", "--from", str(folder / "run"), *both, "--latency-ms", "7"]) == 0
    printed = capsys.readouterr().out
    assert "best within latency_ms 7: " in printed and "estimated loss" in printed
    assert best["network"] in ("fp32-6ms", "int8-6ms") and "estimated loss" in best["reason"]


def test_the_best_network_of_every_budget_is_trained_with_best(precisions, capsys):
    folder, _, _ = precisions
    front = json.loads((folder / "run" / "front.json").read_text())
    capsys.readouterr()

    assert main(["train", str(folder / "run"), "--best", "--epochs", "1", "--batch-size", "64", "--json"]) == 0

    assert len(json.loads(capsys.readouterr().out)) == len(front["best"])
    for best in front["best"]:
        assert (folder / "run" / best["folder"] / "train" / "weights.safetensors").exists()
    assert main(["train", str(folder / "run"), "--best", "--all"]) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "answer"),
    [
        (["--precision", "int8"], 2, "no latency source given"),
        (["--precision", "int4", "--predictor", "FP32"], 2, "expected one of fp32, fp16, int8, or several"),
        (
            ["--precision", "fp16,int8", "--predictor", "INT8"],
            1,
            "near-int8 has no predictor of fp16; predictors: int8",
        ),
        (["--predictor", "FP32", "--predictor", "FP32"], 1, "a second predictor of latency_ms"),
        (
            ["--predictor", "FP32", "--predictor", "INT8", "--method", "lightnas"],
            2,
            "searches once per budget; 2 are given",
        ),
    ],
)
def test_precisions_that_cannot_be_searched_are_reported(precisions, tmp_path, capsys, arguments, code, answer):
    folder, _, _ = precisions
    places = {name.upper(): str(folder / f"near-{name}.predictor.json") for name in ("fp32", "int8")}
    given = [places.get(each, each) for each in arguments]

    found = main(["search", *given, "--latency-ms", "6", "--out", str(tmp_path / "run"), *QUICK])

    assert answer in capsys.readouterr().err
    assert (found, (tmp_path / "run").exists()) == (code, False)


def test_precisions_of_a_run_are_selected_for_a_further_budget(precisions, capsys):
    folder, _, _ = precisions

    assert main(["search", "--from", str(folder / "run"), "--precision", "int8", "--latency-ms", "4", "--json"]) == 0

    names = {row["name"] for row in json.loads(capsys.readouterr().out)["networks"]}
    assert "int8-4ms" in names and "fp32-4ms" not in names


def test_a_network_that_its_precision_cannot_compute_is_handed_over_with_a_warning(precisions, tmp_path, capsys):
    folder, _, _ = precisions
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    state = load_checkpoint(run / "search" / "checkpoint.pt", schema=SCHEMA)
    state["supernet"]["head.classifier.weight"] *= 1e8
    save_checkpoint(run / "search" / "checkpoint.pt", state)
    measured("fp16", 0.5).save(tmp_path / "near-fp16.predictor.json")
    given = [
        "--predictor",
        str(tmp_path / "near-fp16.predictor.json"),
        "--predictor",
        str(folder / "near-fp32.predictor.json"),
    ]

    assert main(["search", "--from", str(run), *given, "--precision", "fp16,fp32", "--latency-ms", "5"]) == 0

    printed = capsys.readouterr()
    assert "fp16-5ms: fp16 overflows on " in printed.err
    assert "fp16-5ms is left out: fp16 overflows on " in " ".join(printed.out.split())


def test_a_budget_of_one_precision_alone_is_searched_in_that_one(precisions, tmp_path, capsys):
    """Networks take at least 1 ms in fp32 and 0.5 ms in int8."""
    _, both, _ = precisions

    assert main(["search", *both, "--latency-ms", "0.9", "--out", str(tmp_path / "run"), *QUICK]) == 0

    printed = capsys.readouterr()
    assert "fp32-0.9ms: " in printed.err and "left out; another precision keeps this budget" in printed.err
    assert "found " in printed.out
