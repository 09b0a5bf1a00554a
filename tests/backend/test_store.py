"""The disk store: complete or absent, within its quota, and nobody else's."""

import stat
from pathlib import Path

import pytest

from backend.store import Store, StoreFullError
from runtime.config import ConfigError
from tests.fakes.clock import Clock
from wire.repo import RepoRef


def _ref(name: str) -> RepoRef:
    return RepoRef.parse(f"org/{name}@{'a' * 40}")


def _open(path: Path, clock: Clock, max_bytes: int = 100) -> Store:
    store = Store(path, max_bytes, clock)
    store.open()
    return store


def _put(store: Store, ref: RepoRef, size: int) -> Path:
    with store.staging() as staging:
        store.reserve(staging, size)
        content = staging.path / "content"
        content.mkdir()
        (content / "file").write_bytes(bytes(size))
        return store.publish(staging, content, ref)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    return _open(tmp_path / "store", clock)


def test_what_was_published_is_found_after_a_restart(store: Store, clock: Clock) -> None:
    """The index is rebuilt from the disk: nothing is fetched twice."""
    path = _put(store, _ref("a"), 30)
    store.close()
    again = _open(store.root, clock)
    assert again.find(_ref("a")) == path
    assert again.bytes == 30
    assert path == store.root / "org" / "a" / ("a" * 40)


def test_an_unfinished_download_is_gone_after_a_restart(store: Store, clock: Clock) -> None:
    """A crash leaves nothing that looks whole."""
    with store.staging() as staging:
        (staging.path / "half").write_bytes(b"x")
        store.close()
        again = _open(store.root, clock)
        assert not staging.path.exists()
    assert again.bytes == 0


def test_what_is_not_published_vanishes(store: Store) -> None:
    """A failed download leaves no bytes and no promise."""
    with store.staging() as staging:
        store.reserve(staging, 100)
    assert not staging.path.exists()
    _put(store, _ref("a"), 100)


def test_it_is_closed_to_other_users(store: Store) -> None:
    """Private models lie in it."""
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700


def test_two_backends_cannot_share_one(store: Store, clock: Clock) -> None:
    """Each would evict what the other uses."""
    with pytest.raises(ConfigError, match="another running backend"):
        _open(store.root, clock)


def test_a_path_that_is_no_directory_is_a_fault_of_the_configuration(tmp_path: Path, clock: Clock) -> None:
    """Said before anything starts."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"store\.path"):
        _open(tmp_path / "file", clock)


def test_the_least_recently_used_makes_room(store: Store, clock: Clock) -> None:
    """Using is holding, and releasing."""
    for name in "abc":
        _put(store, _ref(name), 30)
        clock.advance(1)
    store.hold(_ref("a"))
    clock.advance(1)
    store.release(_ref("a"))
    _put(store, _ref("d"), 30)
    assert store.find(_ref("b")) is None
    assert not (store.root / "org" / "b").exists()
    assert all(store.find(_ref(name)) for name in "acd")


def test_the_order_of_use_survives_a_restart(store: Store, clock: Clock) -> None:
    """It is kept in the directories' times."""
    _put(store, _ref("a"), 50)
    _put(store, _ref("b"), 50)
    clock.advance(10)
    store.hold(_ref("a"))
    store.close()
    again = _open(store.root, clock)
    _put(again, _ref("c"), 50)
    assert again.find(_ref("a")) is not None
    assert again.find(_ref("b")) is None


def test_what_is_held_is_never_evicted(store: Store) -> None:
    """The engine reads its files again whenever it likes."""
    _put(store, _ref("a"), 60)
    store.hold(_ref("a"))
    with pytest.raises(StoreFullError), store.staging() as staging:
        store.reserve(staging, 50)
    store.release(_ref("a"))
    _put(store, _ref("b"), 50)


def test_nothing_is_evicted_for_what_does_not_fit_anyway(store: Store) -> None:
    """A refusal has no side effect."""
    _put(store, _ref("a"), 60)
    with pytest.raises(StoreFullError), store.staging() as staging:
        store.reserve(staging, 101)
    assert store.find(_ref("a")) is not None


def test_downloads_under_way_count(store: Store) -> None:
    """Two of them cannot both be promised the last bytes."""
    with store.staging() as one, store.staging() as other:
        store.reserve(one, 60)
        with pytest.raises(StoreFullError):
            store.reserve(other, 60)
        store.reserve(other, 40)


def test_foreign_directories_are_left_alone(tmp_path: Path, clock: Clock) -> None:
    """What is not named as we name is neither counted nor evicted."""
    for odd in ("org/name/main", "a--b/c/" + "a" * 40, "lost+found"):
        (tmp_path / "store" / odd).mkdir(parents=True)
    store = _open(tmp_path / "store", clock)
    assert store.bytes == 0
    assert (tmp_path / "store" / "org/name/main").exists()


def test_only_a_commit_has_a_place(store: Store) -> None:
    """A branch means other bytes tomorrow."""
    with pytest.raises(ValueError, match="sha"), store.staging() as staging:
        store.publish(staging, staging.path, RepoRef.parse("org/name@main"))
