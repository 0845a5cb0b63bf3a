"""What the stories of the daemon stand on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.houses import House


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.world.store.away = False
    house.daemon.stop()
