"""Workspace, data, cache and home, also in unusual environments."""

import os
import pwd
import shutil

import pytest

from novobench import config, config_loading, doctor, files, places
from novobench.errors import NovobenchError
from novobench.places import ROOT
from novobench.suite.row_configs import tuned_rates


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """A home directory, and no variables of novobench in the environment."""
    for name in (places.DATA, places.CACHE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path.resolve()


@pytest.fixture
def nobody(monkeypatch):
    """No home directory: none in the environment, and a user id that the system does not know."""
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
    monkeypatch.chdir(tmp_path)  # the current folder does not matter
    expected = expected.format(root=ROOT, home=at_home)
    assert str(places.data_root()) == expected
    cell = type("Cell", (), {"data_root": "data"})
    assert str(config.data_root(cell)) == expected
    assert any(f"data folder {expected} " in text for _, text in doctor._folders())


def test_the_configs_data_folder(at_home, monkeypatch):
    assert places.data_root("~/mine") == at_home / "mine"
    assert places.data_root("mine") == ROOT / "mine"
    assert places.data_root("") == ROOT / "data"
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
    expected = expected.format(root=ROOT, home=at_home)
    assert str(places.cache_root()) == expected


def test_derived_data_is_in_the_cache(at_home, monkeypatch):
    monkeypatch.setenv(places.CACHE, "~/c")
    folder = files.derived_folder("some/thing", lambda folder: (folder / "a").touch())
    assert folder == at_home / "c" / "some" / "thing"
    assert any(f"{at_home / 'c'} is writable" in text for _, text in doctor._folders())


@pytest.mark.parametrize("home", ["", "/nonexistent", "not/absolute", None])
def test_without_a_home_the_cache_is_in_the_checkout(nobody, monkeypatch, home):
    if home is not None:
        monkeypatch.setenv("HOME", home)
    assert places.home() is None
    assert places.cache_root() == ROOT / ".cache" / "novobench"
    places.prepare_environment()
    assert os.environ["HOME"] == str(ROOT / ".cache" / "home")
    assert os.environ["USER"] == f"user{os.getuid()}"
    assert places.cache_root() == ROOT / ".cache" / "novobench"  # also in child processes
    monkeypatch.setenv(places.DATA, "~/sets")
    with pytest.raises(NovobenchError, match=r"\$NOVOBENCH_DATA is '~/sets', but there is no home directory"):
        places.data_root()


def test_an_empty_home_falls_back_to_the_user_database(monkeypatch):
    monkeypatch.setenv("HOME", "")
    assert str(places.home()) == pwd.getpwuid(os.getuid()).pw_dir


def test_a_home_that_is_not_writable(at_home, monkeypatch):
    (at_home / ".cache").touch()  # root may write everywhere, but not below a file
    assert places.cache_root() == ROOT / ".cache" / "novobench"
    (at_home / ".cache").unlink()
    monkeypatch.setattr(places.os, "access", lambda *_: False)
    assert places.cache_root() == ROOT / ".cache" / "novobench"


def test_a_command_is_not_a_process_of_a_distributed_group(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID"):
        monkeypatch.setenv(name, "three")
    places.prepare_environment()
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID"} & set(os.environ)


def test_a_current_folder_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    places.prepare_environment()
    assert os.getcwd() == str(ROOT)


def test_concurrent_checks_do_not_interfere(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: places.check_writable(tmp_path / "new" / "folder"), range(64)))
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    assert places.supports_locks(tmp_path)


# ---------------------------------------------------------------------------------------------- workspaces


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """novobench as a wheel installs it, with configs and experiments in the package; the current folder is empty."""
    package = tmp_path / "site-packages" / "novobench"
    for name in ("configs", "experiments"):
        shutil.copytree(ROOT / name, package / name)
    monkeypatch.setattr(places, "ROOT", package.parent)
    monkeypatch.setattr(places, "PACKAGE", package)
    folder = (tmp_path / "work").resolve()
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_checkout_is_its_own_workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workspace = places.workspace()
    assert (workspace.root, workspace.shipped) == (ROOT, ROOT)
    assert workspace.experiment_files() == sorted((ROOT / "experiments").glob("*.yaml"))
    assert workspace.tuned_rate_files("image", "laptop") == [ROOT / "configs" / "image" / "tuned-laptop.yaml"]


def test_an_installed_package_works_in_the_current_folder(installed, novobench):
    workspace = places.workspace()
    assert workspace.root == installed
    assert workspace.results("laptop") == installed / "results" / "laptop"
    assert places.data_root() == installed / "data"
    assert [path.name for path in workspace.experiment_files()] == sorted(os.listdir(ROOT / "experiments"))
    code, out, err = novobench("plan", "table1", "--rows", "t1_sgd_100")
    assert (code, err) == (0, "")
    assert "t1_sgd_100" in out
    assert list(installed.iterdir()) == []  # planning writes nothing


def test_an_installed_package_uses_the_checkout_around_the_current_folder(installed, monkeypatch):
    checkout = installed / "clone"
    for name in ("novobench", "configs", "experiments", "scripts"):
        (checkout / name).mkdir(parents=True)
    monkeypatch.chdir(checkout / "scripts")
    assert places.workspace().root == checkout / "scripts"  # others have folders of these names, too
    (checkout / "configs" / "deviations.yaml").touch()
    assert places.workspace().root == checkout


def test_a_users_files_win_over_the_shipped_ones(installed):
    workspace = places.workspace()
    own = installed / "experiments" / "mine.yaml"
    own.parent.mkdir()
    own.touch()
    assert workspace.experiment("mine") == own
    assert workspace.experiment("table1") == places.PACKAGE / "experiments" / "table1.yaml"
    assert own in workspace.experiment_files()
    assert len(workspace.experiment_files()) == len(os.listdir(ROOT / "experiments")) + 1
    task_config = installed / "configs" / "image" / "laptop.yaml"
    task_config.parent.mkdir(parents=True)
    task_config.touch()
    assert workspace.task_config("image", "laptop") == task_config
    assert workspace.task_config("image", "full") == places.PACKAGE / "configs" / "image" / "full.yaml"
    assert task_config in workspace.config_files()
    assert places.PACKAGE / "configs" / "image" / "laptop.yaml" not in workspace.config_files()


def test_a_base_that_the_workspace_lacks_comes_with_novobench(installed):
    own = installed / "configs" / "image" / "laptop.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("base: full.yaml\nbudget: 7steps\n")
    tree = config_loading.load_tree(own)
    assert tree.budget == "7steps"
    assert tree.data.source == config_loading.load_tree(ROOT / "configs" / "image" / "full.yaml").data.source


def test_tuned_rates_of_the_workspace_win_over_the_shipped_ones(installed):
    workspace = places.workspace()
    shipped = tuned_rates("image", "laptop", "novograd-b32", "here")
    own = workspace.tuned_rates("image", "laptop")
    assert own == installed / "configs" / "image" / "tuned-laptop.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("sgd-b32: {optimizer.lr: 7.0}\n")
    assert tuned_rates("image", "laptop", "sgd-b32", "here") == {"optimizer.lr": 7.0}
    assert tuned_rates("image", "laptop", "novograd-b32", "here") == shipped != {}
    assert set(workspace.tuned_rate_files("image", "laptop")) <= set(workspace.config_files())


def test_an_installed_package_in_a_current_folder_that_is_gone(installed, novobench):
    installed.rmdir()
    code, _, err = novobench("list")
    assert code == 1
    assert err == "novobench: The current folder no longer exists. Change to another one.\n"
