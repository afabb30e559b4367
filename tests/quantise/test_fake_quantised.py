"""The int8 graph in torch computes what ONNX Runtime computes from the exported graph."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from lightnas_edge.data import load_data
from lightnas_edge.graph import Arithmetic, activation_ranges, model_bytes, network_model, weight_shapes
from lightnas_edge.graph.writer import LARGEST_BIAS
from lightnas_edge.nn import Network, folded_weights
from lightnas_edge.quantise.fake_quantised import FakeQuantised
from lightnas_edge.space import Architecture, load_space
from lightnas_edge.train import TrainConfig, train_architecture

DIALECTS = ["ort", "tensorrt"]
both = pytest.mark.parametrize("dialect", DIALECTS)


def images(space, count):
    shape = (count, 3, space.input_size, space.input_size)
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def random_network(name, seed):
    space = load_space(name)
    architecture = Architecture.random(space, np.random.default_rng(seed))
    floats = network_model(space, architecture, seed=seed)
    arrays = {each.name: numpy_helper.to_array(each) for each in floats.graph.initializer}
    return space, architecture, {name: arrays[name] for name in weight_shapes(space, architecture)}


def ranges_of(space, architecture, weights, inputs):
    return activation_ranges(network_model(space, architecture, batch=len(inputs), weights=weights), inputs)


def run(model, names, inputs, *, as_written=False):
    """`as_written`: node by node. Otherwise with the int8 kernels of ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model_bytes(model), options, providers=["CPUExecutionProvider"])
    return session.run(names, {"input": inputs})


def tensors(model, names, inputs):
    """Any tensors of a graph, by name."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    inner = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name != "output"]
    probed.graph.output.extend(inner)
    return dict(zip(names, run(probed, names, inputs, as_written=True), strict=True))


def assert_each_tensor_is_that_of_onnx_runtime(network, model, inputs):
    """Each computed from ONNX Runtime's own inputs, because a tie that two orders of a sum decide differently grows in later layers.

    PyTorch multiplies by 1 / scale where ONNX Runtime divides by the scale: near a tie, numbers may be a step apart. Ties are
    rare, but for the mean of a map, which is a whole number of steps divided by the number of pixels.
    """
    found = {"input": inputs, **tensors(model, [step.output for step in network.steps], inputs)}
    parameters, scales = dict(network.named_parameters()), network.scales()
    with torch.inference_mode():
        for step in network.steps:
            ours = step(parameters, scales, *(torch.from_numpy(found[name]) for name in step.inputs)).numpy()
            difference = np.abs(ours - found[step.output])
            exact = 2e-5 * max(1.0, np.abs(ours).max())
            if hasattr(step, "index"):
                assert difference.max() <= scales[step.index].scale * 1.001, step.output
                ties = 0.1 if step.output.startswith(("head.pool", "head.flatten")) else 1e-4
                assert np.sum(difference > exact) <= max(1, ties * difference.size), step.output
            elif hasattr(step, "weight"):
                channels = difference.max(axis=tuple(axis for axis in range(difference.ndim) if axis != 1))
                assert np.sum(channels > exact) <= 1, (
                    f"{step.output}: a rounded weight of more than one channel differs"
                )
                largest = np.abs(parameters[step.weight].numpy()).max() * np.abs(found[step.inputs[0]]).max()
                assert channels.max() <= exact + largest / (step.largest_weight or 127), step.output
            else:
                assert difference.max() <= exact, step.output


@both
@pytest.mark.parametrize("space", ["tiny", "tiny-se", "nasbench-macro"])
def test_every_tensor_is_that_of_the_exported_graph(space, dialect):
    for seed in range(2):
        space, architecture, weights = random_network(space if seed == 0 else space.name, seed)
        inputs = images(space, 8)
        ranges = ranges_of(space, architecture, weights, inputs)
        arithmetic = Arithmetic("int8", dialect)
        model = network_model(space, architecture, batch=8, weights=weights, arithmetic=arithmetic, ranges=ranges)

        network = FakeQuantised(space, architecture, weights, ranges, dialect)

        assert_each_tensor_is_that_of_onnx_runtime(network, model, inputs)


@both
def test_values_outside_the_ranges_end_at_their_ends(dialect):
    space, architecture, weights = random_network("tiny", 0)
    inputs = images(space, 8)
    ranges = {
        name: (low / 3, high / 3) for name, (low, high) in ranges_of(space, architecture, weights, inputs).items()
    }
    arithmetic = Arithmetic("int8", dialect)
    model = network_model(space, architecture, batch=8, weights=weights, arithmetic=arithmetic, ranges=ranges)

    network = FakeQuantised(space, architecture, weights, ranges, dialect)

    assert_each_tensor_is_that_of_onnx_runtime(network, model, inputs)


def test_a_large_bias_of_a_channel_with_tiny_weights_is_that_of_the_exported_graph():
    space, architecture, weights = random_network("tiny", 0)
    weights = {name: value.copy() for name, value in weights.items()}
    weights["stem.conv.weight"][0] *= 1e-9
    weights["stem.conv.bias"][0] = 3.0
    inputs = images(space, 8)
    ranges = ranges_of(space, architecture, weights, inputs)
    model = network_model(
        space, architecture, batch=8, weights=weights, arithmetic=Arithmetic("int8", "ort"), ranges=ranges
    )
    stored = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    assert abs(stored["stem.conv.bias"][0]) >= LARGEST_BIAS * 0.999, "the bias sets the scale of this channel"

    network = FakeQuantised(space, architecture, weights, ranges, "ort")

    assert_each_tensor_is_that_of_onnx_runtime(network, model, inputs)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """(space, architecture, folded weights, validation images, labels) of a network that knows digits."""
    space = load_space("tiny")
    data = load_data("digits", space=space)
    architecture = Architecture.random(space, np.random.default_rng(1))
    config = TrainConfig(epochs=4, batch=64, lr=0.1, checkpoint_s=1e9)
    _, content = train_architecture(tmp_path_factory.mktemp("digits"), space, architecture, data, config)
    from safetensors.torch import load

    network = Network(space, architecture)
    network.load_state_dict(load(content))
    return space, architecture, folded_weights(network.eval()), *data.validation_arrays()


@both
def test_most_logits_of_digits_are_within_a_step_of_the_int8_kernels(digits, dialect):
    """A step of a logit: what one step of the classifier's input changes at most.

    Measured: 91 % within a step, the furthest 19 steps away (`ort`), 98 % and 8 steps (`tensorrt`), the class the same for all
    359 images. A tie in an inner layer that is decided differently may grow in later layers.
    """
    space, architecture, weights, inputs, labels = digits
    ranges = ranges_of(space, architecture, weights, inputs[:64])
    arithmetic = Arithmetic("int8", dialect)
    model = network_model(space, architecture, batch=len(inputs), weights=weights, arithmetic=arithmetic, ranges=ranges)
    (theirs,) = run(model, ["output"], inputs, as_written=dialect == "tensorrt")

    network = FakeQuantised(space, architecture, weights, ranges, dialect).eval()
    with torch.inference_mode():
        ours = network(torch.from_numpy(inputs)).numpy()

    (last,) = [each.index for each in network.steps if each.output == network.steps[-1].inputs[0]]
    step = network.scales()[last].scale * np.abs(weights["head.classifier.weight"]).max()
    difference = np.abs(ours - theirs) / step
    assert np.mean(difference <= 1) > {"ort": 0.85, "tensorrt": 0.95}[dialect]
    assert difference.max() < 30
    assert np.mean(ours.argmax(1) == theirs.argmax(1)) > 0.995
    assert np.mean(ours.argmax(1) == labels) > 0.9, "the network knows digits"


@both
def test_scales_follow_weights_that_change(dialect):
    space, architecture, weights = random_network("tiny", 0)
    inputs = images(space, 3)
    ranges = ranges_of(space, architecture, weights, inputs)
    network = FakeQuantised(space, architecture, weights, ranges, dialect)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)

    network(torch.from_numpy(inputs)).square().mean().backward()
    optimiser.step()

    changed = network.weights()
    assert all(np.abs(changed[name] - weights[name]).max() > 0 for name in weights), "a gradient reaches every weight"
    again = FakeQuantised(space, architecture, changed, ranges, dialect)
    with torch.inference_mode():
        assert torch.equal(network(torch.from_numpy(inputs)), again(torch.from_numpy(inputs)))
        assert len(network(torch.from_numpy(inputs[:1]))) == 1, "of any number of images"


def test_gradients_pass_as_if_nothing_were_rounded():
    """But for activations beyond their range, which have none."""
    space, architecture, weights = random_network("tiny", 0)
    inputs = torch.from_numpy(images(space, 4)).requires_grad_()
    ranges = ranges_of(space, architecture, weights, inputs.detach().numpy())

    def gradient(ranges):
        network = FakeQuantised(space, architecture, weights, ranges, "tensorrt")
        (found,) = torch.autograd.grad(network(inputs).sum(), inputs)
        return found

    assert gradient(ranges).abs().min() >= 0 and gradient(ranges).abs().mean() > 0
    narrow = {**ranges, "input": (-1.0, 1.0)}
    assert (gradient(narrow)[inputs.abs() > 1.02] == 0).all()
    assert (gradient(ranges)[inputs.abs() > 1.02] != 0).any()


def test_the_copy_of_a_network_has_weights_of_its_own():
    """The cost of a training is estimated on a copy."""
    import copy

    space, architecture, weights = random_network("tiny", 0)
    ranges = ranges_of(space, architecture, weights, images(space, 2))
    network = FakeQuantised(space, architecture, weights, ranges, "ort")

    other = copy.deepcopy(network)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()

    assert network.weights()["stem.conv.weight"].any() and not other.weights()["stem.conv.weight"].any()
    assert not other(torch.from_numpy(images(space, 1))).any()


# -- ranges that follow the weights ---------------------------------------------------------------------------


def following(space, architecture, weights, ranges, dialect, passes=100, cut=0.0):
    return FakeQuantised(space, architecture, weights, ranges, dialect, observed_passes=passes, cut=cut).train()


@both
@pytest.mark.parametrize("name", ["tiny", "tiny-se", "nasbench-macro"])
def test_observed_ranges_are_those_of_the_exported_graph_whatever_they_began_with(name, dialect):
    """Every tensor before its rounding, in ONNX Runtime; a graph that leaves an activation function to the ends of the range has
    the tensor before that function.
    """
    space, architecture, weights = random_network(name, 3)
    inputs = images(space, 6)
    ranges = {
        name: (low / 20, high / 20) for name, (low, high) in ranges_of(space, architecture, weights, inputs).items()
    }
    network = following(space, architecture, weights, ranges, dialect)

    network(torch.from_numpy(inputs))

    found = network.ranges
    assert network.observed == 1
    arithmetic = Arithmetic("int8", dialect)
    model = network_model(space, architecture, batch=6, weights=weights, arithmetic=arithmetic, ranges=found)
    rounded = [(node.input[0], node.input[1]) for node in model.graph.node if node.op_type == "QuantizeLinear"]
    rounded = [(x, scale) for x, scale in rounded if not x.endswith(".weight")]
    assert len(rounded) == len(found)
    values = {"input": inputs, **tensors(model, [x for x, _ in rounded if x != "input"], inputs)}
    for (x, scale), (name, (low, high)) in zip(rounded, found.items(), strict=True):
        is_activated = name.endswith((".relu6.out", ".relu.out"))
        expected = np.clip(values[x], 0 if is_activated else -np.inf, 6 if name.endswith(".relu6.out") else np.inf)
        step = numpy_helper.to_array(next(each for each in model.graph.initializer if each.name == scale))
        assert abs(low - expected.min()) <= 1.5 * step and abs(high - expected.max()) <= 1.5 * step, name
    assert_each_tensor_is_that_of_onnx_runtime(network, model, inputs)


@both
def test_ranges_are_the_mean_of_the_first_passes_and_then_stay(dialect):
    space, architecture, weights = random_network("tiny", 0)
    inputs = torch.from_numpy(images(space, 4))
    ranges = ranges_of(space, architecture, weights, inputs.numpy())
    network = following(space, architecture, weights, ranges, dialect, passes=3)

    for factor in (1.0, 2.0, 6.0, 50.0):
        network(factor * inputs)
    network.eval()(100 * inputs)

    low, high = network.ranges["input"]
    assert (low, high) == pytest.approx((3 * float(inputs.min()), 3 * float(inputs.max())), rel=1e-6)
    assert network.observed == 3


def test_of_many_passes_the_last_hundred_count():
    space, architecture, weights = random_network("tiny", 0)
    inputs = torch.from_numpy(images(space, 2))
    ranges = ranges_of(space, architecture, weights, inputs.numpy())
    network = following(space, architecture, weights, ranges, "ort", passes=400)

    with torch.no_grad():
        for _ in range(100):
            network(inputs)
        for _ in range(100):
            network(2 * inputs)

    moved = network.ranges["input"][1] / float(inputs.max()) - 1
    assert moved == pytest.approx(1 - 0.99**100, rel=1e-6)


def test_validation_and_an_observation_of_no_pass_leave_the_ranges():
    space, architecture, weights = random_network("tiny", 0)
    inputs = images(space, 4)
    ranges = ranges_of(space, architecture, weights, inputs)
    network = following(space, architecture, weights, ranges, "ort")
    frozen = FakeQuantised(space, architecture, weights, ranges, "ort").train()

    network.eval()(torch.from_numpy(3 * inputs))
    frozen(torch.from_numpy(3 * inputs))

    for each in (network, frozen):
        assert each.observed == 0
        assert each.ranges == {name: ranges[name] for name in each.ranges}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(3, 5, 4, 4), (2, 1, 1, 1), (4, 7)])
@pytest.mark.parametrize("cut", [0.0, 0.01, 0.1, 0.4])
def test_a_cut_leaves_out_that_share_of_the_values_at_each_end(shape, cut, layout):
    space, architecture, weights = random_network("tiny", 0)
    network = FakeQuantised(
        space, architecture, weights, ranges_of(space, architecture, weights, images(space, 1)), "ort"
    )
    rounding = next(step for step in network.steps if step.output.startswith("input"))
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = values.to(memory_format=layout) if values.dim() == 4 else values

    low, high = rounding.range_of(values, cut).tolist()

    in_order, out = np.sort(values.numpy().ravel()), int(cut * values.numel())
    assert (low, high) == (in_order[out], in_order[-1 - out])


def test_a_network_that_diverges_keeps_ranges_that_can_be_read():
    space, architecture, weights = random_network("tiny", 0)
    inputs = images(space, 2)
    ranges = ranges_of(space, architecture, weights, inputs)
    network = following(space, architecture, weights, ranges, "tensorrt")
    inputs[0, 0, 0, 0] = np.nan

    logits = network(torch.from_numpy(inputs))

    assert np.isfinite(list(network.ranges.values())).all()
    assert network.ranges["input"] == ranges["input"]
    assert logits.shape == (2, 10)


def test_the_state_has_the_ranges():
    space, architecture, weights = random_network("tiny", 0)
    inputs = torch.from_numpy(images(space, 3))
    ranges = ranges_of(space, architecture, weights, inputs.numpy())
    network, other = (following(space, architecture, weights, ranges, "ort") for _ in range(2))
    network(5 * inputs)

    other.load_state_dict(network.state_dict())

    assert other.ranges == network.ranges != ranges
    assert other.observed == 1
    with torch.inference_mode():
        assert torch.equal(other.eval()(inputs), network.eval()(inputs))
