"""The disk store: complete or absent, within its quota, and nobody else's."""

import errno
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubgate.backend.fairness.line import OPERATOR
from hubgate.backend.repo_files import RepoFile
from hubgate.backend.store import maintenance
from hubgate.backend.store.layout import RECORDS, STAGING, USERS, Shelf
from hubgate.backend.store.store import Store, StoreFullError
from hubgate.runtime.config import ConfigError
from hubgate.wire.repo import RepoRef
from tests.fakes.clock import Clock


def _ref(name: str) -> RepoRef:
    return RepoRef.parse(f"org/{name}@{'a' * 40}")


def _open(path: Path, clock: Clock, max_bytes: int = 100, free: int = 10**9) -> Store:
    store = Store(path, max_bytes, clock, lambda _: free)
    store.open()
    return store


def _put(store: Store, ref: RepoRef, size: int, who: str = "") -> Path:
    with store.staging() as staging:
        staging.taker = who
        store.reserve(staging, size)
        staging.files = (RepoFile(name="file", size=size, blob="b" * 40),)
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


@pytest.fixture
def others(store: Store) -> Iterator[Shelf]:
    """The same store as a command sees it, in another process."""
    with maintenance.shelf_at(store.root) as shelf:
        yield shelf


def test_what_is_stored_cannot_be_written(store: Store) -> None:
    """Neither the engine nor an accident changes what was verified."""
    path = _put(store, _ref("a"), 10)
    assert stat.S_IMODE((path / "file").stat().st_mode) == 0o400


def test_the_hashes_stay_and_go_with_the_repo(store: Store, clock: Clock) -> None:
    """They are there after a restart, not among the files, and not of what is gone."""
    path = _put(store, _ref("a"), 60)
    assert [file.name for file in path.iterdir()] == ["file"]
    (store.root / RECORDS / "org--gone--x.json").touch()
    store.close()
    again = _open(store.root, clock)
    with maintenance.shelf_at(store.root) as shelf:
        record = shelf.record(_ref("a"))
        assert record is not None
        assert record[0].blob == "b" * 40
        _put(again, _ref("b"), 60)
        assert shelf.record(_ref("a")) is None
    assert len(list((store.root / RECORDS).iterdir())) == 1


def test_a_lower_quota_counts_from_the_next_start(store: Store, clock: Clock) -> None:
    """What was used longest ago goes before anything is served."""
    for name in "abc":
        _put(store, _ref(name), 30)
        clock.advance(1)
    store.close()
    again = _open(store.root, clock, max_bytes=65)
    assert again.find(_ref("a")) is None
    assert again.bytes == 60


def test_what_is_pinned_is_never_evicted(store: Store, others: Shelf, clock: Clock) -> None:
    """From the moment the operator says so, while the backend runs; and until they say otherwise."""
    _put(store, _ref("a"), 60)
    clock.advance(1)
    _put(store, _ref("b"), 40)
    others.pin(_ref("a"))
    _put(store, _ref("c"), 40)
    assert store.find(_ref("a")) is not None
    with pytest.raises(StoreFullError), store.staging() as staging:
        store.reserve(staging, 50)
    others.unpin(_ref("a"))
    _put(store, _ref("d"), 50)
    assert store.find(_ref("a")) is None


def test_a_full_disk_counts_like_the_quota(tmp_path: Path, clock: Clock) -> None:
    """Said before the first byte; what nobody uses makes room, and promises to others count."""
    store = _open(tmp_path / "store", clock, max_bytes=1000, free=1000)
    _put(store, _ref("a"), 100)
    store.free = lambda _: 50
    with store.staging() as one, store.staging() as other:
        store.reserve(one, 30)
        assert store.find(_ref("a")) is not None
        (one.path / "part").write_bytes(bytes(20))  # 20 of its 30 bytes are on the disk already
        store.reserve(other, 40)
        assert store.find(_ref("a")) is not None
        with pytest.raises(StoreFullError):
            store.reserve(other, 400)
        store.reserve(other, 60)
        assert (other.evicted, store.find(_ref("a"))) == ((_ref("a"),), None)


def test_a_disk_without_room_for_a_directory_is_full(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answer as for the bytes themselves."""

    def full(**_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(StoreFullError), store.staging():
        pytest.fail("there is no staging")


def test_what_a_backend_uses_cannot_be_collected(store: Store, others: Shelf) -> None:
    """`gc` on a running backend: held repos stay, the rest goes, and the backend knows it."""
    _put(store, _ref("a"), 30)
    _put(store, _ref("b"), 30)
    store.hold(_ref("a"))
    store.hold(_ref("a"))
    store.release(_ref("a"))
    assert [item.ref.name for item in maintenance.collect(others, 0)] == ["b"]
    assert [(row.item.ref.name, row.in_use) for row in maintenance.rows(others)] == [("a", True)]
    assert store.bytes == 30
    with pytest.raises(KeyError):
        store.hold(_ref("b"))
    store.release(_ref("a"))
    assert [item.ref.name for item in maintenance.collect(others, 0)] == ["a"]
    assert list((store.root / STAGING).iterdir()) == []


def test_what_is_being_collected_is_not_taken_into_use(store: Store, others: Shelf) -> None:
    """Between the lock and the deletion: it counts as absent, and is fetched anew."""
    _put(store, _ref("a"), 30)
    assert others.lock(_ref("a"), exclusive=True)
    with pytest.raises(KeyError):
        store.hold(_ref("a"))
    assert store.find(_ref("a")) is None


def test_what_others_read_is_not_evicted(store: Store, others: Shelf) -> None:
    """`verify` reads for minutes, and the backend must not pull the files from under it."""
    _put(store, _ref("a"), 60)
    assert others.lock(_ref("a"), exclusive=False)
    with pytest.raises(StoreFullError), store.staging() as staging:
        store.reserve(staging, 50)
    others.unlock(_ref("a"))
    _put(store, _ref("b"), 50)


def test_a_user_that_dies_holds_nothing(store: Store, others: Shelf, clock: Clock) -> None:
    """Locks are the kernel's: they end with who held them."""
    _put(store, _ref("a"), 30)
    store.hold(_ref("a"))
    assert others.in_use(_ref("a"))
    store.close()  # what the kernel does for a process that ends
    assert not others.in_use(_ref("a"))
    assert _open(store.root, clock).find(_ref("a")) is not None


def _use(store: Store, name: str, who: str) -> None:
    store.hold(_ref(name), who)
    store.release(_ref(name))


def test_whoever_causes_it_pays(store: Store, clock: Clock) -> None:
    """One caller's loads push out their own repos, and nobody else's that were used within an hour."""
    _put(store, _ref("a"), 40, "alice")
    for number in range(10):
        clock.advance(60)
        _put(store, _ref(f"e-{number}"), 20, "eve")
    assert [store.find(_ref(f"e-{number}")) is not None for number in range(10)] == [False] * 7 + [True] * 3
    assert store.find(_ref("a")) is not None
    clock.advance(3600)
    _use(store, "e-9", "eve")
    _put(store, _ref("e-10"), 40, "eve")
    assert store.find(_ref("a")) is None


def test_who_has_more_than_their_share_makes_room(store: Store, clock: Clock) -> None:
    """For somebody who has less, although it was used a moment ago; then it is their own that goes."""
    for name in "abcd":
        _put(store, _ref(name), 25, "eve")
        clock.advance(1)
    _put(store, _ref("x"), 25, "alice")
    _put(store, _ref("y"), 25, "alice")
    assert [bool(store.find(_ref(name))) for name in "abcdxy"] == [False, False, True, True, True, True]
    _put(store, _ref("z"), 25, "alice")
    assert [bool(store.find(_ref(name))) for name in "cdxyz"] == [True, True, False, True, True]


def test_a_full_share_is_said(store: Store) -> None:
    """Apart from a store that is full for everybody; what is on its way counts as its caller's."""
    _put(store, _ref("a"), 40, "alice")
    with store.staging() as first, store.staging() as second:
        first.taker = second.taker = "eve"
        store.reserve(first, 50)
        with pytest.raises(StoreFullError) as caught:
            store.reserve(second, 20)
    assert caught.value.share_used
    store.hold(_ref("a"))
    with store.staging() as staging:
        staging.taker = "bob"
        with pytest.raises(StoreFullError) as full:
            store.reserve(staging, 90)
    assert not full.value.share_used


def test_what_is_loaded_is_used_until_it_is_released(store: Store, clock: Clock) -> None:
    """By those who had it loaded, however long ago that was."""
    _put(store, _ref("a"), 40, "alice")
    store.hold(_ref("a"), "alice")
    clock.advance(10 * 86400)
    store.release(_ref("a"))
    _put(store, _ref("e"), 60, "eve")
    _put(store, _ref("f"), 50, "eve")
    assert store.find(_ref("a")) is not None
    assert store.find(_ref("e")) is None


def test_the_operator_may_have_what_nobody_holds(store: Store, clock: Clock) -> None:
    """What was used longest ago goes, whosever it is; and nobody's share is smaller for it."""
    _put(store, _ref("a"), 40, "alice")
    clock.advance(1)
    _put(store, _ref("e"), 60, "eve")
    _put(store, _ref("own"), 40, OPERATOR)
    assert [bool(store.find(_ref(name))) for name in ("a", "e", "own")] == [True, False, True]


def test_whose_a_repo_was_survives_a_restart(store: Store, clock: Clock) -> None:
    """Else a restart were the moment to push out everybody's."""
    _put(store, _ref("a"), 40, "alice")
    _put(store, _ref("e"), 60, "eve")
    clock.advance(1000)
    _use(store, "a", "alice")
    store.close()
    again = _open(store.root, clock)
    clock.advance(3599)
    _put(again, _ref("f"), 50, "eve")
    assert [bool(again.find(_ref(name))) for name in "aef"] == [True, False, True]
    assert sorted(path.name.split("--")[1] for path in (store.root / USERS).iterdir()) == ["a", "f"]


def test_notes_that_say_nothing_are_nobodys(store: Store, clock: Clock) -> None:
    """A repo without good ones goes by its last use until somebody uses it again."""
    _put(store, _ref("a"), 50, "alice")
    clock.advance(1)
    _put(store, _ref("b"), 50, "bob")
    (note_of_a,) = (store.root / USERS).glob("*--a--*")
    note_of_a.write_bytes(b'{"alice": "yesterday"}')
    (store.root / USERS / "org--gone--x.json").touch()
    store.close()
    again = _open(store.root, clock)
    _put(again, _ref("f"), 50, "eve")
    assert [bool(again.find(_ref(name))) for name in "abf"] == [False, True, True]
    assert len(list((store.root / USERS).iterdir())) == 2
