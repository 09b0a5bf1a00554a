"""The grammar of model names: what it takes, it takes as it stands; the rest it refuses."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubgate.wire.repo import MAX_LENGTH, InvalidRepoError, RepoRef, is_sha
from tests.cases import each

SHA = "0123456789abcdef0123456789abcdef01234567"
WORD = string.ascii_letters + string.digits + "_"

segments = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,30}[A-Za-z0-9_])?", fullmatch=True).filter(
    lambda text: "--" not in text and ".." not in text and not text.endswith(".git")
)


@each(
    ("text", "org", "name", "revision"),
    [
        ("demo/tiny-llama", "demo", "tiny-llama", None),
        ("a/b", "a", "b", None),
        ("_x/y_", "_x", "y_", None),
        ("acme/Model.v1-beta_2", "acme", "Model.v1-beta_2", None),
        ("demo/tiny@main", "demo", "tiny", "main"),
        ("demo/tiny@v1.0", "demo", "tiny", "v1.0"),
        ("demo/tiny@refs/pr/7", "demo", "tiny", "refs/pr/7"),
        (f"demo/tiny@{SHA}", "demo", "tiny", SHA),
        ("o" * 96 + "/" + "n" * 96, "o" * 96, "n" * 96, None),
    ],
)
def test_names_of_the_hub_are_read(text: str, org: str, name: str, revision: str | None) -> None:
    """A name is taken apart into organization, name and revision."""
    repo = RepoRef.parse(text)
    assert (repo.org, repo.name, repo.revision) == (org, name, revision)
    assert str(repo) == text
    assert repo.id == f"{org}/{name}"


@each(
    "text",
    [
        "",
        "/",
        "llama",
        "a/b/c",
        "/a/b",
        "a/",
        "/b",
        "../x",
        "a/..",
        "a/.",
        "./a",
        "a/b\n",
        "a/b\r\n",
        "a/b\x00",
        " a/b",
        "a/b ",
        "a b/c",
        "http://169.254.169.254",
        "http://evil/x",
        "a/b?x",
        "a/b#",
        "a%2fb",
        "a/b%0a",
        "~root",
        "~/x",
        "/etc/passwd",
        "a\\b",
        "a/b;x",
        "a/b:8080",
        "-a/b",
        "a-/b",
        "a/-b",
        "a/b.",
        "a/.b",
        "a/b--c",
        "a/b..c",
        "a/b.git",
        "a.git/b",
        "ä/b",
        "a/\uff42",
        "a/b\u0663",
        "a/b@",
        "a/b@@",
        "a/b@../x",
        "a/b@x/../y",
        "a/b@/x",
        "a/b@x/",
        "a/b@x//y",
        "a/b@x/.y",
        "a/b@-x",
        "a/b@.x",
        "a/b@x.",
        "a/b@x.lock",
        "a/b@x y",
        "a/b@x~1",
        "a/b@x^",
        "a/b@x:y",
        "a/b@x?",
        "a/b@x*",
        "a/b@main\n",
        "a/b@x@y",
        "a@b/c",
        "o" * 97 + "/n",
        "o/" + "n" * 97,
        "a/b@" + "r" * 256,
        "\ud800/b",
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    """What is no name is refused, and the message does not repeat it."""
    with pytest.raises(InvalidRepoError) as caught:
        RepoRef.parse(text)
    assert len(text) < 4 or text not in str(caught.value)


@given(org=segments, name=segments, revision=st.none() | st.from_regex(r"[A-Za-z0-9]{1,40}", fullmatch=True))
def test_what_is_printed_can_be_read(org: str, name: str, revision: str | None) -> None:
    """A name survives being written and read."""
    repo = RepoRef(org, name, revision)
    assert RepoRef.parse(str(repo)) == repo


@given(st.text(max_size=60) | st.text(alphabet=WORD + "/@.-\n%~?#", max_size=40))
def test_whatever_is_taken_is_harmless(text: str) -> None:
    """Whatever passes consists of safe ASCII, holds one slash before the `@`, and means itself."""
    try:
        repo = RepoRef.parse(text)
    except InvalidRepoError:
        return
    assert str(repo) == text
    assert repo.id.count("/") == 1
    assert set(text) <= set(WORD + "/@.-")
    assert ".." not in text
    assert "//" not in text
    assert not repo.id.startswith((".", "-", "/"))


@given(st.text(alphabet="ab/@.", min_size=MAX_LENGTH + 1, max_size=MAX_LENGTH + 50))
def test_long_text_is_refused(text: str) -> None:
    """Nothing longer than the longest name is looked at."""
    with pytest.raises(InvalidRepoError, match=str(MAX_LENGTH)):
        RepoRef.parse(text)


@each(
    ("text", "sha"),
    [
        (SHA, True),
        (SHA.upper(), False),
        (SHA[:39], False),
        (SHA + "0", False),
        (SHA + "\n", False),
        ("g" * 40, False),
    ],
)
def test_a_sha_is_forty_lower_case_hex_digits(text: str, *, sha: bool) -> None:
    """Only a full lower-case commit sha counts as one."""
    assert is_sha(text) is sha


def test_a_repo_is_pinned_by_a_sha_alone() -> None:
    """A branch can move, a commit cannot."""
    repo = RepoRef.parse("a/b")
    assert not repo.pinned
    assert not repo.at("main").pinned
    assert repo.at(SHA).pinned
    assert str(repo.at(SHA)) == f"a/b@{SHA}"


@each("character", [chr(code) for code in range(128)])
def test_where_each_character_may_stand(character: str) -> None:
    """At the start, inside and at the end of a name and of a revision: every ASCII character, one by one."""
    word = character in string.ascii_letters + string.digits
    assert _is_read(f"{character}x/x") is (word or character == "_")
    assert _is_read(f"x/x{character}x") is (word or character in "_.-@")  # `x/x@x` is a revision
    assert _is_read(f"x/xx{character}") is (word or character == "_")
    assert _is_read(f"x/{character}") is (word or character == "_")
    assert _is_read(f"x/x@{character}x") is word
    assert _is_read(f"x/x@x{character}x") is (word or character in "._/-")
    assert _is_read(f"x/x@xx{character}") is (word or character in "_-")
    assert is_sha(character * 40) is (character in "0123456789abcdef")


@each(
    ("text", "good"),
    [
        (f"{'o' * 96}/{'n' * 96}@{'r' * 255}", True),  # 449 characters, the longest name there is
        (f"{'o' * 97}/n", False),
        (f"o/{'n' * 97}", False),
        (f"o/n@{'r' * 256}", False),
    ],
)
def test_the_greatest_lengths(text: str, good: bool) -> None:
    """96 characters for each part of a name, 255 for a revision, and not one more."""
    assert _is_read(text) is good


@each("revision", ["a..b", "a//b", "a/.b", "a/", "a.", "a.lock"])
def test_what_no_ref_may_hold(revision: str) -> None:
    """git-check-ref-format(1), rule by rule."""
    assert not _is_read(f"a/b@{revision}")


def test_length_is_looked_at_first() -> None:
    """What is longer than any name can be is refused as that, before a pattern sees it."""
    with pytest.raises(InvalidRepoError, match="at most 449 characters"):
        RepoRef.parse("x" * 450)
    with pytest.raises(InvalidRepoError, match="org/name"):
        RepoRef.parse("x" * 449)


def _is_read(text: str) -> bool:
    try:
        RepoRef.parse(text)
    except InvalidRepoError:
        return False
    return True


def test_a_debugger_shows_what_it_was_made_of() -> None:
    assert repr(RepoRef.parse("demo/tiny@v1")) == "RepoRef('demo/tiny@v1')"


def test_a_reference_equals_nothing_but_the_same_repo_at_the_same_revision() -> None:
    pinned = RepoRef("demo", "tiny", "v1")
    assert pinned == RepoRef.parse("demo/tiny@v1")
    assert hash(pinned) == hash(RepoRef.parse("demo/tiny@v1"))
    others = [RepoRef("demo", "tiny"), RepoRef("demo", "tiny", "v2"), RepoRef("demo", "tin"), "demo/tiny@v1"]
    assert [other for other in others if pinned == other] == []
