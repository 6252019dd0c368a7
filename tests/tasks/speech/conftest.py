"""Recordings as files, shared by the tests of sources."""

from pathlib import Path

import pytest

from tests.tasks.speech.small import make_manifests, make_parquet, make_tree


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """Nothing a test makes stays."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("NOVOBENCH_CACHE", str(cache))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache / "datasets")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The same utterances as a tree, as manifests and as parquet files; to be read only."""
    folder = tmp_path_factory.mktemp("data")
    make_tree(folder)
    make_manifests(folder)
    make_parquet(folder)
    return folder
