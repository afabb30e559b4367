"""A trained network as the teacher of a blockwise search."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from lightnas_edge.cli import main
from lightnas_edge.errors import ConfigError, LightnasEdgeError, ModelError, StaleRecordError
from lightnas_edge.nn import Network, Supernet, folded_path_weights
from lightnas_edge.nn.checkpoint import load_checkpoint
from lightnas_edge.runs import Run
from lightnas_edge.search import add_budgets, load_teacher, run_search
from lightnas_edge.search.state import SCHEMA
from lightnas_edge.search.teacher import teach
from lightnas_edge.space import Architecture
from lightnas_edge.train import TrainConfig, train_network
from tests import run_folders
from tests.search.problems import CONFIG, SPACE, budget, data

CLASSES = ("dark", "bright")
TWO = dataclasses.replace(SPACE.with_classes(2), dropout=0.0)
PATH = [0, 1, 1, 2]
BLOCKWISE = dataclasses.replace(CONFIG, method="blockwise")


def network(path=PATH, space=TWO, seed=3):
    torch.manual_seed(seed)
    found = Network(space, Architecture.from_indices(space, path))
    for module in found.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0.0, 0.3)
    return found


def written(folder, path=PATH, space=TWO, described=True, classes=CLASSES, changed=None):
    weights = {name: value.contiguous() for name, value in network(path, space).state_dict().items()}
    weights.update(changed or {})
    architecture = Architecture.from_indices(space, path).to_json()
    text = {"network": json.dumps({**architecture, "classes": list(classes)})} if described else None
    save_file(weights, folder / "teacher.safetensors", metadata=text)
    return folder / "teacher.safetensors"


def test_a_supernet_computes_what_its_teacher_computes(tmp_path):
    teacher = load_teacher(written(tmp_path), TWO, CLASSES)
    supernet = Supernet(TWO, affine=True).train()
    teach(supernet, teacher)
    images = torch.randn(8, 3, 16, 16)

    assert list(teacher.architecture.indices(TWO)) == PATH
    torch.testing.assert_close(supernet(images, PATH), network().train()(images))
    assert not any(name.endswith("running_mean") for name in supernet.state_dict())


def test_what_is_deployed_of_its_path_has_statistics_of_training_images(tmp_path):
    supernet = Supernet(TWO, affine=True).train()
    teach(supernet, load_teacher(written(tmp_path), TWO, CLASSES))
    batches = [torch.randn(16, 3, 16, 16) for _ in range(3)]

    with supernet.calibrated(PATH, batches):
        weights = folded_path_weights(supernet, PATH)
        supernet(torch.randn(1, 3, 16, 16), PATH)  # of one image: no statistics of a batch are used

    assert {name for name in weights if name.startswith("head.")} >= {"head.linear.weight", "head.linear.bias"}
    supernet(batches[0], PATH)  # of the batch again


def test_the_operators_follow_from_the_shapes_where_nothing_names_them(tmp_path):
    named = load_teacher(written(tmp_path), TWO, CLASSES)
    assert load_teacher(written(tmp_path, described=False), TWO, CLASSES).architecture == named.architecture


def test_other_operators_start_as_cuts_of_the_teachers(tmp_path):
    supernet = Supernet(TWO, affine=True)
    teach(supernet, load_teacher(written(tmp_path), TWO, CLASSES))

    wide, narrow = supernet.layers[1][1], supernet.layers[1][0]
    assert torch.equal(narrow.expand.weight, wide.expand.weight[:16])
    assert torch.equal(narrow.depthwise.weight, wide.depthwise.weight[:16, :, 1:4, 1:4])
    assert torch.equal(narrow.project.weight, wide.project.weight[:, :16])
    assert torch.equal(narrow.depthwise_norm.bias, wide.depthwise_norm.bias[:16])
    small, large = supernet.layers[0][0], supernet.layers[0][1]  # the teacher's is the smaller one here
    assert torch.equal(large.depthwise.weight[:8, :, 1:4, 1:4], small.depthwise.weight)


def test_a_search_with_a_teacher_trains_no_teacher_and_resumes_and_takes_further_budgets(tmp_path):
    teacher = load_teacher(written(tmp_path), TWO, CLASSES)
    config = dataclasses.replace(BLOCKWISE, teacher=teacher.sha256, epochs=2)
    phases = []
    (found,) = run_search(
        tmp_path / "run", TWO, data(), budget(9.0), config, teacher=teacher, on_event=lambda each: phases.append(each.get("phase"))
    )  # fmt: skip

    assert "warmup" not in phases and {"weights", "architecture"} <= set(phases)
    checkpoint = load_checkpoint(tmp_path / "run" / "search" / "checkpoint.pt", schema=SCHEMA)
    began = Supernet(TWO, affine=True)
    teach(began, teacher)
    before, after = began.state_dict(), checkpoint["supernet"]
    frozen = [name for name in before if not name.startswith("layers.")]
    frozen += [
        name for name in before if any(name.startswith(f"layers.{layer}.{index}.") for layer, index in enumerate(PATH))
    ]
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    (again,) = run_search(tmp_path / "run", TWO, data(), budget(9.0), config, teacher=teacher)
    assert again.architecture == found.architecture
    (further,) = add_budgets(tmp_path / "run", TWO, data(), [budget(5.0, "further")], config)
    assert further.chosen.selection.predicted[0] <= 5.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ("cat", "dog")}, r"trained for 2 classes \(cat, dog\), the images have 2 classes \(dark, bright\)"),
        ({"space": SPACE}, r"does not fit: head.classifier.bias is 10, small with 2 classes needs 2"),
        ({"changed": {"stem.conv.weight": torch.full((4, 3, 3, 3), float("nan"))}}, "stem.conv.weight is not finite"),
        ({"changed": {"layers.0.extra.weight": torch.zeros(1)}}, "layers.0.extra.weight is 1, .* needs missing"),
        ({"described": False, "changed": {"layers.0.extra.weight": torch.zeros(1)}}, "layer 0 has the shapes of no operator"),
        ({"space": dataclasses.replace(TWO, name="other")}, "is no network of the space small"),
    ],
)  # fmt: skip
def test_a_teacher_that_does_not_fit_is_named(tmp_path, arguments, message):
    with pytest.raises(ModelError, match=message):
        load_teacher(written(tmp_path, **arguments), TWO, CLASSES)


@pytest.mark.parametrize("content", [b"", b"no weights", b"\xff" * 64])
def test_a_file_that_holds_no_weights_is_named(tmp_path, content):
    (tmp_path / "teacher.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        load_teacher(tmp_path / "teacher.safetensors", TWO, CLASSES)


def test_a_teacher_that_is_missing_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"none.safetensors does not exist"):
        load_teacher(tmp_path / "none.safetensors", TWO, CLASSES)
    with pytest.raises(LightnasEdgeError, match=r"run.json does not exist"):
        load_teacher(tmp_path, TWO, CLASSES)


def test_a_run_teaches_with_the_weights_of_its_own_network_alone(tmp_path):
    """Not with those of the network before, nor with a file that its record does not describe."""
    images = data()
    found = run_folders.find(
        run_folders.begin(tmp_path / "run", SPACE, images.record), Architecture.from_indices(TWO, PATH)
    )
    trained = train_network(found, images, TrainConfig(epochs=1, batch=16, checkpoint_s=1e9))
    assert load_teacher(tmp_path / "run", TWO, CLASSES).sha256 == trained.record.weights_sha256

    content = trained.weights.read_bytes()
    trained.weights.write_bytes(written(tmp_path).read_bytes())
    with pytest.raises(StaleRecordError, match=r"not the file that result.json describes"):
        load_teacher(tmp_path / "run", TWO, CLASSES)

    trained.weights.write_bytes(content)
    run_folders.find(Run.open(tmp_path / "run"), Architecture.from_indices(TWO, [0, 0, 0, 0]))
    with pytest.raises(StaleRecordError, match="another architecture"):
        load_teacher(tmp_path / "run", TWO, CLASSES)


def test_only_the_blockwise_method_has_a_teacher_and_then_no_warm_up(capsys):
    with pytest.raises(ConfigError, match="the method shared has none"):
        dataclasses.replace(CONFIG, teacher="0" * 64)
    with pytest.raises(ConfigError, match="there is no warm-up"):
        dataclasses.replace(BLOCKWISE, teacher="0" * 64, warmup_epochs=1)
    words = ["search", "--predictor", "p.json", "--latency-ms", "1", "--data", "digits", "--teacher", "runs/tiny"]
    assert main(words) == 2
    assert "add --method blockwise" in capsys.readouterr().err
