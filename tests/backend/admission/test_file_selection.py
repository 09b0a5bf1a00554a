"""Which files are fetched, and which repos are refused before their first byte."""

from hubgate.backend.admission.file_selection import Rejected, Selected, select_adapter, select_base
from hubgate.backend.repo_files import RepoFile
from hubgate.wire.json_bounds import MAX_ADAPTER_CONFIG
from tests.cases import each

BIG = 10**9


def _files(*names: str, size: int | None = 10) -> list[RepoFile]:
    return [RepoFile(name=name, size=size, sha256=None, blob="b" * 40) for name in names]


def _names(selected: Selected | Rejected) -> set[str]:
    assert isinstance(selected, Selected), selected
    return {file.name for file in selected.files}


ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
BASE = ("config.json", "model.safetensors", "tokenizer.json")


def test_an_adapter_is_two_files() -> None:
    """Nothing else of the repo is ever on our disk."""
    listed = _files(
        *ADAPTER, "README.md", "tokenizer.json", "checkpoint-1/adapter_model.safetensors", "x.bin"
    )
    assert _names(select_adapter(listed, BIG)) == set(ADAPTER)


def test_a_vast_configuration_is_not_fetched() -> None:
    """Its size in the listing is enough; the largest is read."""
    config, weights = ADAPTER
    for size, fits in ((MAX_ADAPTER_CONFIG, True), (MAX_ADAPTER_CONFIG + 1, False), (50_000_000, False)):
        chosen = select_adapter([*_files(config, size=size), *_files(weights)], BIG)
        assert isinstance(chosen, Selected) is fits


def test_a_base_is_weights_configuration_and_tokenizer() -> None:
    """No code, no pickles, no pictures, no hidden files."""
    listed = _files(
        *BASE, "model.safetensors.index.json", "chat_template.jinja", "tokenizer.model",
        "1_Pooling/config.json", "modeling_x.py", "pytorch_model.bin", "README.md", "x.png",
        ".hidden.json", "onnx/model.safetensors", "a b.json", "[x].json",
    )  # fmt: skip
    assert _names(select_base(listed, BIG)) == {
        *BASE, "model.safetensors.index.json", "chat_template.jinja", "tokenizer.model",
        "1_Pooling/config.json",
    }  # fmt: skip


def test_names_that_no_disk_takes_are_not_fetched() -> None:
    """Too long, or too deep."""
    listed = _files(*BASE, "x" * 251 + ".json", "/".join("d" * 10) + "/config.json")
    assert _names(select_base(listed, BIG)) == set(BASE)


def test_code_is_fetched_of_a_repo_that_the_operator_named() -> None:
    """`engines.remote_code`: its Python files, and still no pickle."""
    listed = _files(*BASE, "modeling_x.py", "deep/part.py", "../x".replace("../", ""), "pytorch_model.bin")
    assert _names(select_base(listed, BIG, remote_code=True)) == {*BASE, "modeling_x.py", "deep/part.py"}
    assert _names(select_base(listed, BIG)) == set(BASE)


def test_mistral_weights_are_fetched_once() -> None:
    """Their repos hold the same weights in two layouts."""
    listed = _files(*BASE, "consolidated.safetensors", "params.json")
    assert _names(select_base(listed, BIG)) == set(BASE)
    alone = _files("config.json", "consolidated.safetensors", "params.json")
    assert "consolidated.safetensors" in _names(select_base(alone, BIG))


@each(
    ("names", "said"),
    [
        (("adapter_config.json", "adapter_model.bin"), "pickle"),
        (("adapter_config.json",), "no safetensors"),
        ((*ADAPTER, "handler.py"), "Python code"),
        ((*ADAPTER, "deep/x.py"), "Python code"),
        (("config.json",), "no LoRA adapter"),
        ((*ADAPTER, "../../etc/passwd"), "leaves its folder"),
        ((*ADAPTER, "/etc/passwd"), "leaves its folder"),
        ((*ADAPTER, "a\\..\\b"), "leaves its folder"),
        ((*ADAPTER, "a/../b"), "leaves its folder"),
        ((*ADAPTER, "a\0b"), "leaves its folder"),
        (tuple(f"{n}.txt" for n in range(2001)), "2001 files"),
    ],
)
def test_an_adapter_is_refused_by_its_listing(names: tuple[str, ...], said: str) -> None:
    """threats.md, rows 36 and 37: before a byte of it is fetched."""
    verdict = select_adapter(_files(*names), BIG)
    assert isinstance(verdict, Rejected)
    assert said in verdict.reason


@each(
    ("names", "said"),
    [
        (("config.json", "pytorch_model.bin"), "pickle"),
        (("model.safetensors",), "config.json"),
        (("config.json",), "no safetensors"),
        ((*BASE, "../x"), "leaves its folder"),
        ((*BASE, "config.json"), "twice"),
    ],
)
def test_a_base_is_refused_by_its_listing(names: tuple[str, ...], said: str) -> None:
    """The same for base models; their code is only not fetched, since many work without."""
    verdict = select_base(_files(*names), BIG)
    assert isinstance(verdict, Rejected)
    assert said in verdict.reason


def test_sizes_are_known_and_bounded_before_the_first_byte() -> None:
    """All together, each small file, and never unknown."""
    assert isinstance(select_adapter(_files(*ADAPTER, size=50), 100), Selected)
    assert isinstance(select_adapter(_files(*ADAPTER, size=51), 100), Rejected)
    assert isinstance(select_adapter(_files(*ADAPTER, size=None), 100), Rejected)
    assert isinstance(select_base(_files(*BASE, size=65 << 20), 10**12), Rejected)


def test_a_file_without_a_hash_is_refused() -> None:
    """What cannot be verified is not fetched."""
    listed = [RepoFile(name=name, size=1) for name in ADAPTER]
    assert isinstance(select_adapter(listed, BIG), Rejected)
