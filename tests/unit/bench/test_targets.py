"""Each decoder takes its bytes or refuses them by its own error."""

import random
import tempfile
from pathlib import Path

import pytest

from bench.soak.decoders.target import FuzzTarget, refuse
from bench.soak.decoders.targets import make_targets

NAMES = sorted(make_targets(Path(tempfile.gettempdir())))
TRIES = 60


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path) -> FuzzTarget:
    return make_targets(tmp_path)[request.param]


@pytest.mark.parametrize("target", NAMES, indirect=True)
def test_whatever_the_bytes_a_decoder_takes_or_refuses_them(target: FuzzTarget) -> None:
    chance = random.Random(7)
    for seed in target.seeds:
        refuse(target, seed)
    for _ in range(TRIES):
        refuse(target, damage(chance.choice(target.seeds), chance))


def damage(raw: bytes, chance: random.Random) -> bytes:
    """The bytes with some of them changed, left out or doubled."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(raw) + 1)
        end = min(len(raw), start + chance.choice((0, 1, 1, 8, 100)))
        put = chance.choice((b"", chance.randbytes(1), raw[start:end] * 2, b"\0", b'"', b"\xff"))
        raw = raw[:start] + put + raw[end:]
    return raw


@pytest.mark.parametrize("target", NAMES, indirect=True)
def test_a_decoder_takes_something(target: FuzzTarget) -> None:
    assert any(not refuse(target, seed) for seed in target.seeds)
