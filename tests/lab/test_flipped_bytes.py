"""A changed byte in every kind of file that a run writes; scripts/reliability/flipped_bytes.py does 200 of each."""

import random

import pytest
from flipped_bytes import kinds_of, notices, sealed_run

pytestmark = pytest.mark.endurance

KINDS = (
    "prefix cache", "checkpoint", "adapter", "head", "moments", "facts", "digests", "converted model", "pool", "result",
    "test tasks", "confusions", "curve", "train_stats", "eval_stats", "experiment", "baseline", "results table",
)  # fmt: skip


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return kinds_of(sealed_run(tmp_path_factory.mktemp("sealed")))


def test_every_kind_is_tried(kinds) -> None:
    assert kinds.keys() == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_changed_byte_is_noticed_and_the_file_named(name: str, kinds) -> None:
    kinds[name].read()
    rng = random.Random(name)
    assert all(notices(kinds[name], rng) for _ in range(20))
    kinds[name].read()
