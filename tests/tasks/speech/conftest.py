"""Recordings as files, shared by the tests of sources."""

import shutil
from pathlib import Path

import pytest

from tests.tasks.speech.small import make_manifests, make_parquet, make_tree


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """A cache that is removed after the tests."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("NOVOBENCH_CACHE", str(cache))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache / "datasets")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The same utterances as a tree, as manifests and as parquet files; read-only."""
    folder = tmp_path_factory.mktemp("data")
    make_tree(folder)
    make_manifests(folder)
    make_parquet(folder)
    return folder


@pytest.fixture
def files(root, tmp_path) -> Path:
    """A copy of `root` that a test may change."""
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    return tmp_path
