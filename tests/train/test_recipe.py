"""The field's recipe as options: AdamW, averaged weights, mixed images, RandAugment. The published recipe is the default."""

import dataclasses
import json
import sys

import pytest
import torch

from lightnas_edge.errors import ConfigError
from lightnas_edge.nn import Network
from lightnas_edge.records.deployment import TrainingRecord
from lightnas_edge.runs import Run
from lightnas_edge.space import Architecture
from lightnas_edge.train import TrainConfig, load_network
from lightnas_edge.train.recipe import Averaged, Mixing, make_optimiser
from lightnas_edge.train.training import Training, score
from tests import run_folders
from tests.cli.commands import run as command
from tests.search.problems import SPACE, data
from tests.train.test_train_network import CONFIG, FOUND, Stop, left_behind, train

WHOLE = dataclasses.replace(CONFIG, epochs=4, lr=None, optimiser="adamw", ema=0.9, mixup=0.2, cutmix=1.0, randaugment=2)


def test_adamw_has_its_own_defaults_and_decays_neither_biases_nor_norms():
    optimiser = make_optimiser(Network(SPACE, FOUND), TrainConfig(optimiser="adamw", batch=256))
    decayed, others = optimiser.param_groups

    assert type(optimiser) is torch.optim.AdamW
    assert (decayed["weight_decay"], others["weight_decay"], decayed["lr"]) == (0.05, 0.0, 5e-4)
    assert {weight.dim() for weight in others["params"]} == {1}


def test_the_published_recipe_is_the_default():
    config = TrainConfig(batch=1024)

    assert (config.optimiser, config.peak_lr, config.decay) == ("sgd", 0.5, 4e-5)
    assert [config.ema, config.mixup, config.cutmix, config.randaugment] == [None] * 4


def test_averages_follow_the_weights_at_first_and_slowly_later():
    network = torch.nn.BatchNorm1d(1)
    averaged = Averaged(network, 0.5)
    for value in (1.0, 3.0, 11.0, 3.0):
        with torch.no_grad():
            network.weight.fill_(value)
            network.running_mean.fill_(10 * value)
            network.num_batches_tracked.fill_(int(value))
        averaged.update_parameters(network)

    expected = 1.0
    for steps, value in ((1, 3.0), (2, 11.0), (3, 3.0)):
        decay = min(0.5, (1 + steps) / (10 + steps))
        expected = decay * expected + (1 - decay) * value
    assert averaged.module.weight.item() == pytest.approx(expected)
    assert averaged.module.running_mean.item() == pytest.approx(10 * expected)
    assert averaged.module.num_batches_tracked.item() == 3, "a counter is copied"


def test_averaged_weights_are_validated_and_kept(tmp_path):
    images = data()
    config = dataclasses.replace(CONFIG, epochs=6, ema=0.8)
    record = train(tmp_path, config, images=images)

    network = load_network(Run.open(tmp_path))
    _, accuracy = score(network, images.validation_loader(16), torch.device("cpu"))
    assert accuracy == record.best_accuracy > 0.9
    training = Training(
        tmp_path / "other",
        lambda: Network(SPACE.with_classes(2), FOUND),
        images,
        config,
        identity={},
        on_event=lambda event: None,
    )
    trained = training.run(resume=False)
    assert trained.accuracies[-1] == record.last_accuracy
    plain, kept = training.network.state_dict(), training.judged.state_dict()
    assert not torch.equal(plain["stem.conv.weight"], kept["stem.conv.weight"])


def test_the_defaults_train_the_bits_that_they_trained_before_there_was_a_choice(tmp_path):
    train(tmp_path / "default", CONFIG)
    train(tmp_path / "named", dataclasses.replace(CONFIG, optimiser="sgd", weight_decay=4e-5))

    assert left_behind(tmp_path / "default") == left_behind(tmp_path / "named")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, torchvision):
    folder = tmp_path_factory.mktemp("whole")
    train(folder, WHOLE)
    return folder


@pytest.mark.parametrize("after", [3, 9])
def test_a_training_with_the_whole_recipe_cut_off_ends_as_if_it_had_not_been(whole, tmp_path, after, monkeypatch):
    monkeypatch.setattr("lightnas_edge.nn.loop.FLUSH_S", 0.0)
    seen = 0

    def cut(event):
        nonlocal seen
        seen += event["kind"] == "training-step"
        if seen == after:
            raise Stop

    config = dataclasses.replace(WHOLE, checkpoint_s=0.0)
    with pytest.raises(Stop):
        train(tmp_path, config, on_event=cut)
    torch.rand(7)  # other random numbers do not matter
    events = []
    train(tmp_path, config, images=dataclasses.replace(data(), workers=1), on_event=events.append)

    assert next(event for event in events if event["kind"] == "start")["resumed"]
    assert left_behind(whole) == left_behind(tmp_path)


def test_the_record_has_the_numbers_behind_the_defaults(whole):
    config = json.loads((whole / "train" / "result.json").read_text())["config"]

    assert config["optimiser"] == "adamw" and config["ema"] == 0.9
    assert (config["lr"], config["weight_decay"], config["randaugment_magnitude"]) == (0.001 / 8, 0.05, 9)


@pytest.mark.parametrize("names", [("mixup",), ("cutmix",), ("mixup", "cutmix")])
def test_images_and_labels_are_mixed_alike_and_by_seed_epoch_and_step_alone(torchvision, names):
    config = TrainConfig(**dict.fromkeys(names, 1.0))
    mixing = Mixing.of(config, 3)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    # An image has one constant channel for each class, so that its means are its shares of the classes.
    images = torch.nn.functional.one_hot(labels, 3).float()[..., None, None].expand(-1, -1, 8, 8)
    images = images.contiguous(memory_format=torch.channels_last)
    state = torch.get_rng_state()

    mixed, shares = mixing(images, labels, epoch=2, step=3)
    torch.rand(3)
    again, _ = Mixing.of(config, 3)(images, labels, epoch=2, step=3)
    others = [mixing(images, labels, epoch=2, step=4), mixing(images, labels, epoch=2, step=3, process=1)]

    torch.testing.assert_close(mixed.mean((2, 3)), shares)
    assert shares.shape == (6, 3) and not torch.equal(shares, shares.round())
    assert torch.equal(mixed, again) and not any(torch.equal(mixed, other) for other, _ in others)
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    with torch.random.fork_rng():
        torch.set_rng_state(state)
        expected = torch.rand(3)
        torch.set_rng_state(state)
        mixing(images, labels, epoch=0, step=0)
        assert torch.equal(torch.rand(3), expected), "other random numbers stay"


def test_with_both_kinds_of_mixing_each_step_draws_one(torchvision):
    mixing = Mixing.of(TrainConfig(mixup=1.0, cutmix=1.0), 2)
    labels = torch.tensor([0, 1])
    images = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 3, 8, 8).contiguous()
    pasted = [set(mixing(images, labels, epoch=0, step=step)[0].unique().tolist()) <= {0.0, 1.0} for step in range(20)]

    assert True in pasted and False in pasted


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimiser": "adam"}, "optimiser: expected one of sgd, adamw, found 'adam'"),
        ({"weight_decay": -1.0}, "weight_decay: expected a number from 0 on"),
        ({"ema": 1.0}, "ema: expected a number between 0 and 1"),
        ({"mixup": 0.0}, "mixup: expected a number above 0"),
        ({"cutmix": float("nan")}, "cutmix: expected a number above 0"),
        ({"randaugment": 0}, "randaugment: expected at least 1"),
        ({"randaugment": 2, "randaugment_magnitude": 31}, "randaugment_magnitude: expected 0 to 30"),
        ({"randaugment_magnitude": 9}, "belongs to randaugment"),
        ({"randaugment": 2, "augment": False}, "does not go without augmentation"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**fields)


def test_a_record_of_an_older_version_is_read(whole):
    content = json.loads((whole / "train" / "result.json").read_text())
    for name in ("optimiser", "ema", "mixup", "cutmix", "randaugment", "randaugment_magnitude"):
        del content["config"][name]

    old = TrainingRecord.parse(json.dumps(content), "an old record")

    assert old.recipe == "SGD"
    assert TrainingRecord.load(whole / "train" / "result.json", error=ValueError, remedy="").recipe == (
        "AdamW, weights averaged with decay 0.9, mixup 0.2, CutMix 1, RandAugment 2 of magnitude 9"
    )


# -- the command -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    from lightnas_edge.data import load_data

    images = load_data("digits", space=SPACE)
    found = run_folders.begin(tmp_path_factory.mktemp("digits"), SPACE, images.record)
    return run_folders.find(found, Architecture.from_indices(SPACE, [2, 0, 1, 2])).folder


OPTIONS = (
    "--optimiser", "adamw", "--ema", "0.9", "--mixup", "0.2", "--cutmix", "1", "--randaugment", "1,5", "--weight-decay", "0",
)  # fmt: skip


def test_the_command_trains_with_a_recipe_and_then_from_a_teacher(torchvision, digits, tmp_path):
    answer = command("train", digits, "--epochs", "1", "--batch-size", "256", "--json", *OPTIONS)

    assert answer.code == 0, answer.err
    config = json.loads(answer.out)["config"]
    assert (config["optimiser"], config["ema"], config["mixup"], config["cutmix"]) == ("adamw", 0.9, 0.2, 1.0)
    assert (config["randaugment"], config["randaugment_magnitude"], config["weight_decay"]) == (1, 5, 0.0)
    assert (
        "recipe: AdamW, weights averaged with decay 0.9, mixup 0.2, CutMix 1, RandAugment 1 of magnitude 5"
        in answer.err
    )
    student = run_folders.find(
        run_folders.begin(tmp_path, SPACE, Run.open(digits).data), Architecture.from_indices(SPACE, [0, 0, 0, 0])
    )
    taught = command(
        "train", student.folder, "--epochs", "1", "--batch-size", "256", "--teacher", digits, "--distil-weight", "0.3"
    )
    assert taught.code == 0, taught.err
    assert f"teacher: the network of {digits}" in taught.err and "a weight of 0.3" in taught.err


def test_without_torchvision_the_command_names_the_extra_before_any_work(digits, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)

    answer = command("train", digits, "--mixup", "0.2", "--data", "no/such/folder")

    assert answer.code == 1 and "need the package torchvision" in answer.err and "lightnas-edge[recipes]" in answer.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--quantize", "int8", "--ema", "0.9"), "--ema does not go with --quantize"),
        (("--quantize", "int8", "--teacher", "x"), "--teacher does not go with --quantize"),
        (("--distil", "--teacher", "x"), "not allowed with argument --distil"),
        (("--randaugment", "2"), "expected two whole numbers such as 2,9"),
        (("--randaugment", "2,31"), "at most 30"),
        (("--mixup", "0"), "expected a number above 0"),
        (("--weight-decay", "-1"), "expected"),
    ],
)
def test_options_that_do_not_fit_are_wrong_usage(digits, options, message):
    answer = command("train", digits, *options)

    assert answer.code == 2 and message in answer.err
