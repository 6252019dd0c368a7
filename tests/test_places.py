"""Data, cache, home: one meaning for every command, also where the environment is odd."""

import os
import pwd

import pytest

from novobench import config, doctor, files, places
from novobench.errors import NovobenchError


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """A user's home directory, and nothing of novobench's in the environment."""
    for name in (places.DATA, places.CACHE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path.resolve()


@pytest.fixture
def nobody(monkeypatch):
    """No home: none in the environment, and a user whom the system does not know."""
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    for name in (places.DATA, places.CACHE, "HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "{root}/data"),
        ("", "{root}/data"),
        ("  ", "{root}/data"),
        ("~", "{home}"),
        ("~/sets", "{home}/sets"),
        ("sets", "{root}/sets"),
        ("./sets/../other", "{root}/other"),
        ("/sets", "/sets"),
        ("~root", os.path.expanduser("~root")),
        ("~nobody-of-this-name/x", "{root}/~nobody-of-this-name/x"),
        ("[brackets] ü", "{root}/[brackets] ü"),
    ],
)
def test_the_data_folder(at_home, monkeypatch, tmp_path, given, expected):
    if given is not None:
        monkeypatch.setenv(places.DATA, given)
    monkeypatch.chdir(tmp_path)  # from wherever the command is started
    expected = expected.format(root=places.ROOT, home=at_home)
    assert str(places.data_root()) == expected
    cell = type("Cell", (), {"data_root": "data"})
    assert str(config.data_root(cell)) == expected
    assert any(f"data folder {expected} " in text for _, text in doctor._folders())


def test_the_configs_data_folder(at_home, monkeypatch):
    assert places.data_root("~/mine") == at_home / "mine"
    assert places.data_root("mine") == places.ROOT / "mine"
    assert places.data_root("") == places.ROOT / "data"
    monkeypatch.setenv(places.DATA, "/theirs")
    assert str(places.data_root("mine")) == "/theirs"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "{home}/.cache/novobench"),
        ("", "{home}/.cache/novobench"),
        ("~/mine", "{home}/mine"),
        ("mine", "{root}/mine"),
        ("/mine", "/mine"),
    ],
)
def test_the_cache(at_home, monkeypatch, tmp_path, given, expected):
    if given is not None:
        monkeypatch.setenv(places.CACHE, given)
    monkeypatch.chdir(tmp_path)
    expected = expected.format(root=places.ROOT, home=at_home)
    assert str(places.cache_root()) == expected


def test_derived_data_lie_in_the_cache(at_home, monkeypatch):
    monkeypatch.setenv(places.CACHE, "~/c")
    folder = files.derived_folder("some/thing", lambda folder: (folder / "a").touch())
    assert folder == at_home / "c" / "some" / "thing"
    assert any(f"can write into {at_home / 'c'} " in text for _, text in doctor._folders())


@pytest.mark.parametrize("home", ["", "/nonexistent", "not/absolute", None])
def test_without_a_home_the_cache_lies_in_the_checkout(nobody, monkeypatch, home):
    if home is not None:
        monkeypatch.setenv("HOME", home)
    assert places.home() is None
    assert places.cache_root() == places.ROOT / ".cache" / "novobench"
    places.prepare_environment()
    assert os.environ["HOME"] == str(places.ROOT / ".cache" / "home")
    assert os.environ["USER"] == f"user{os.getuid()}"
    assert places.cache_root() == places.ROOT / ".cache" / "novobench"  # in the processes it starts, too
    monkeypatch.setenv(places.DATA, "~/sets")
    with pytest.raises(NovobenchError, match=r"\$NOVOBENCH_DATA is '~/sets', but there is no home directory"):
        places.data_root()


def test_an_empty_home_is_that_of_the_user_database(monkeypatch):
    monkeypatch.setenv("HOME", "")
    assert str(places.home()) == pwd.getpwuid(os.getuid()).pw_dir


def test_a_home_that_cannot_be_written(at_home, monkeypatch):
    (at_home / ".cache").touch()  # root may write anywhere, but not below a file
    assert places.cache_root() == places.ROOT / ".cache" / "novobench"
    (at_home / ".cache").unlink()
    monkeypatch.setattr(places.os, "access", lambda *_: False)
    assert places.cache_root() == places.ROOT / ".cache" / "novobench"


def test_a_command_is_no_process_of_several(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID"):
        monkeypatch.setenv(name, "three")
    places.prepare_environment()
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID"} & set(os.environ)


def test_a_current_folder_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    places.prepare_environment()
    assert os.getcwd() == str(places.ROOT)


def test_commands_that_look_at_the_same_time_do_not_meet(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: places.check_writable(tmp_path / "new" / "folder"), range(64)))
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    assert places.supports_locks(tmp_path)


def test_a_package_without_its_checkout(tmp_path, monkeypatch, novobench):
    """Installed, not cloned: commands that need experiments say so, and nothing is written beside the package."""
    monkeypatch.setattr(places, "ROOT", tmp_path)
    for words in ("list", "plan table1", "run table1", "search table1", "bench throughput"):
        code, out, err = novobench(*words.split())
        assert (code, out) == (1, "")
        assert err.startswith(f"novobench: There is no configs/ and no experiments/ in {tmp_path}")
        assert "Clone the repository" in err
        assert err.count("\n") == 1
    assert novobench("list", "optimizers")[0] == 0
    assert novobench("list", "tasks")[0] == 0
    assert list(tmp_path.iterdir()) == []
