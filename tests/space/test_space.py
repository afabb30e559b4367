"""Search spaces: the published one, and users' own files with their faults."""

import json
import lzma
from dataclasses import replace

import pytest

from lightnas_edge.errors import SpaceError
from lightnas_edge.space import SKIP, Architecture, Operator, Space, built_in_spaces, load_space, macs_m, parameters_m


def test_the_published_space_has_85_distinct_searchable_operators_and_three_fixed_ones():
    space = load_space("lightnas")

    assert len(space.layers) == 21
    assert len(space.operators) == 7
    assert space.size == 558_545_864_083_284_007
    assert len(space.shaped_operators()) == 85 + 3


def test_squeeze_and_excitation_is_a_choice_in_every_layer_of_a_space_that_is_else_the_published_one():
    space, published = load_space("lightnas-se"), load_space("lightnas")

    assert space.layers == published.layers
    assert set(published.operators) < set(space.operators)
    added = [operator for operator in space.operators if operator.squeeze_excite]
    assert [replace(operator, squeeze_excite=False) for operator in added] == list(published.operators[:-1])
    assert len(space.shaped_operators()) == 2 * 78 + 7 + 3  # 13 shapes of 6 blocks twice, 7 skips, stem, first, head


def test_a_skip_that_keeps_its_shape_is_nothing_to_measure():
    space = load_space("lightnas")

    assert space.at(1, SKIP).is_identity  # 24 -> 24, stride 1
    assert not space.at(0, SKIP).is_identity  # 16 -> 24, stride 2: a 1x1 convolution
    changing = [index for index in range(21) if not space.at(index, SKIP).is_identity]
    assert [index + 1 for index in changing] == [1, 3, 6, 10, 13, 17, 21]  # positions as published


def test_keys_name_operator_channels_side_and_stride():
    space = load_space("lightnas")

    assert space.stem.key == "stem@3x224-16s2"
    assert space.at(0, Operator.parse("MBK5E6")).key == "mbconv_k5_e6@16x112-24s2"
    assert space.head.key == "head@384x7-1984-1280-1000s1"
    keys = [shaped.key for shaped in space.shaped_operators()]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", built_in_spaces())
def test_a_space_survives_its_own_json(name, tmp_path):
    space = load_space(name)
    file = tmp_path / "copy.json"
    file.write_text(json.dumps(space.to_json()))

    assert load_space(file) == space
    assert load_space(file).sha256 == space.sha256


def test_other_classes_change_the_head_alone():
    space = load_space("tiny")
    other = space.with_classes(5)

    assert other.head.key.endswith("-5s1")
    assert other.shaped_operators()[3:] == space.shaped_operators()[3:]


def test_a_user_space_in_toml(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("""
        schema = 1
        name = "mine"
        input_size = 64
        classes = 3
        operators = ["mbconv_k3_e3_se", "skip"]
        layers = [{ channels = 24, stride = 2 }, { channels = 24, stride = 1 }]
        stem = { channels = 16, stride = 2 }
        first = { operator = "MBK3E1", channels = 16 }
        head = { channels = 64, features = 32 }
    """)

    space = load_space(file)

    assert space.operators[0].squeeze_excite
    assert space.layers[1].input_size == 16


def test_a_file_with_faults_is_reported_all_of_them_at_once(tmp_path):
    record = load_space("tiny").to_json()
    record["input_size"] = "32"
    record["layers"][3] = {"channels": 0, "stride": 3}
    record["operators"] = ["mbconv_k4_e3", "mbconv_k6_e3", "mbconv_k3_e1", "skip", "skip"]
    record["colour"] = "red"
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(record))

    with pytest.raises(SpaceError) as caught:
        load_space(file)

    message = str(caught.value)
    assert "bad.json: 7 faults" in message
    assert "input_size: expected a whole number of at least 8, found '32'" in message
    assert "layers[3].channels: expected a whole number of at least 1, found 0" in message
    assert "layers[3].stride: expected 1 or 2, found 3" in message
    assert "operators[0]: unknown operator name 'mbconv_k4_e3'" in message
    assert "operators[1]: unknown operator name 'mbconv_k6_e3'" in message
    assert "operators: skip is listed twice" in message
    assert message.count("listed twice") == 1
    assert "colour: unknown field" in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no-such", None, "no such search space: 'no-such'"),
        ("absent.toml", None, "cannot read the search space"),
        ("torn.json", '{"schema": 1', "is not valid JSON"),
        ("torn.toml", "schema = ", "is not valid TOML"),
        ("list.json", "[]", "a search space is a table of fields, found list"),
        ("new.json", '{"schema": 2}', "schema 2 is newer than this program"),
    ],
)
def test_a_file_that_is_no_space_is_refused(name, content, message, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)

    with pytest.raises(SpaceError, match=message.replace("(", r"\(")):
        load_space(path if "." in name else name)


def test_spaces_are_values():
    assert load_space("tiny") == load_space("tiny")
    assert isinstance(hash(load_space("tiny")), int)
    assert Space.from_json(load_space("tiny").to_json()) == load_space("tiny")


def test_the_networks_of_nas_bench_macro_have_the_published_parameters_and_multiplications(shared_data):
    """A sample of the 6,561; the digits of a name are the positions of its operators."""
    path = shared_data / "nasbench_macro" / "nas-bench-macro_cifar10.json.xz"
    published = json.loads(lzma.decompress(path.read_bytes()))
    space = load_space("nasbench-macro")
    assert space.size == len(published)

    for name in sorted(published)[::41]:
        architecture = Architecture.from_indices(space, [int(digit) for digit in name])
        facts = published[name]["params"], published[name]["flops"]
        assert (parameters_m(space, architecture) * 1e6, macs_m(space, architecture) * 1e6) == pytest.approx(
            facts, rel=1e-12
        )


def test_optional_fields_of_a_space_change_its_identity_and_its_keys():
    record = load_space("tiny").to_json()
    plain = Space.from_json(record)
    variants = {
        "activation": {**record, "activation": "relu"},
        "skip": {**record, "skip_activation": False},
        "first": {name: value for name, value in record.items() if name != "first"},
        "features": {**record, "head": {"channels": 320}},
    }

    spaces = {name: Space.from_json(variant) for name, variant in variants.items()}

    assert len({plain.sha256, *(space.sha256 for space in spaces.values())}) == 5
    assert spaces["activation"].stem.key == "stem@3x32-16s2-relu"
    assert spaces["skip"].at(0, SKIP).key == "skip@16x16-24s2-linear"
    assert spaces["skip"].at(1, SKIP).is_identity
    assert [shaped.block for shaped in spaces["first"].fixed] == ["stem", "head"]
    assert spaces["features"].head.key == "head@80x2-320-10s1"
    assert all(Space.from_json(space.to_json()) == space for space in spaces.values())


def test_faults_of_optional_fields_are_named():
    record = {**load_space("tiny").to_json(), "activation": "swish", "skip_activation": "no"}

    with pytest.raises(SpaceError, match="'relu6' or 'relu', found 'swish'") as found:
        Space.from_json(record)
    assert "skip_activation: expected true or false, found 'no'" in str(found.value)


def test_a_command_names_a_built_in_space_and_asks_for_the_file_of_another():
    tiny = load_space("tiny")

    assert tiny.with_classes(7).option == "tiny"
    assert replace(tiny, name="mine").option == replace(tiny, input_size=64).option == "SPACE.toml"
