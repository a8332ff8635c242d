"""A store of records made by hand, and the application over it, without a server and without a browser."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_runs import PORT, kept
from starlette.testclient import TestClient

from headlab.store import Store
from headlab.view.app import make_app
from headlab.view.guard import Keys

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))  # the tiny random models of the engine's tests


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs: two of one claim on two models, one of another."""
    store = Store(tmp_path_factory.mktemp("three"))
    kept(store, 97)
    kept(store, 3, model="decimals-null-0")
    kept(store, 50, slug="head-count")
    return store.root


@pytest.fixture
def home(three: Path, tmp_path: Path) -> Store:
    """A copy of these runs."""
    return Store(shutil.copytree(three, tmp_path / "store"))


@pytest.fixture
def keys() -> Keys:
    return Keys(PORT)


@pytest.fixture
def client(home: Store, keys: Keys) -> Iterator[TestClient]:
    """A browser's requests, without a browser; the token is not given yet."""
    with TestClient(make_app(home, keys), base_url=f"http://127.0.0.1:{PORT}", follow_redirects=False) as made:
        yield made


@pytest.fixture
def known(client: TestClient, keys: Keys) -> TestClient:
    """One that came by the address that was printed."""
    assert client.get("/", params={"token": keys.token}).status_code == 200
    return client
