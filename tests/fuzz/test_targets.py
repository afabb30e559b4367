"""Damaged and invented contents for every reader, a few hundred of each; `make fuzz` reads a million."""

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import FAMILY, NAMES, targets

# No database: a failure is found again because the examples are the same in every run.
SAME = settings(
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
INVENTED = (
    st.binary(max_size=200)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return targets(tmp_path_factory.mktemp("fuzz"))


def read_or_refused(target, content):
    try:
        target.read(content)
    except FAMILY as error:
        assert str(error)
        return False
    return True


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_read_or_refused(found, name):
    generator = random.Random(name)

    outcomes = [read_or_refused(found[name], found[name].damaged(generator)) for _ in range(100)]
    more = (read_or_refused(found[name], found[name].damaged(generator)) for _ in range(2000))

    assert any(outcomes) or any(more), "the damage is so large that nothing but the first check is tried"


@pytest.mark.parametrize("name", NAMES)
def test_an_invented_file_is_read_or_refused(found, name):
    @settings(SAME, max_examples=100)
    @given(content=INVENTED)
    def read(content):
        read_or_refused(found[name], content)

    read()
