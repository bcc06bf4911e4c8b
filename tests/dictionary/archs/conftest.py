"""Both ways in which an architecture with a penalty keeps its pre-activations."""

import pytest

from saeworks.dictionary import preactivations


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    share = {"sparse": 2.0, "dense": -1.0}[request.param]
    monkeypatch.setattr(preactivations, "DENSE_SHARE", share)
