"""`make test-long`: the long tests in shards, one after another, each with its figures at the end."""

import subprocess
import sys
import time
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Shard:
    """Long tests that run together, in an hour at most; `@pytest.mark.long("its name")` adds one."""

    what: str
    processes: int = 2  # 0: in this process, because the tests measure time or use every core themselves


SHARDS = {
    "backends": Shard("two proxies and three backends, faults under load", processes=0),
    "build": Shard("the wheel that pip builds"),
    "engine": Shard("a real vLLM: its second start, two hundred adapters"),
    "hostile": Shard("every attack of the catalogue, on the product with a real vLLM", processes=0),
    "isolation": Shard("100,000 attempts to get what another one may read"),
    "mutated": Shard("1,000,000 mutated requests against the compiled proxy"),
    "pythons": Shard("the tests without vLLM on each Python, compiled and interpreted", processes=0),
    "rolling": Shard("a proxy or a backend of the last release beside this one, under load"),
    "soak": Shard("half an hour of mixed load, and what memory grows by"),
    "tenants": Shard("what one caller does to others, alone and mixed, on a real vLLM", processes=0),
    "timing": Shard("whether private and missing take the same time", processes=0),
}


class _Count:
    """Counts the tests that pass, in all processes."""

    def __init__(self) -> None:
        self.passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one that passed (a hook of pytest)."""
        self.passed += report.when == "call" and report.passed


def run(name: str, arguments: list[str]) -> int:
    """Run a shard and print its figures. Returns pytest's exit status."""
    began, count = time.monotonic(), _Count()
    # In one word: pytest does not know the option yet when it looks for files, and there is a folder `build`.
    options = ["-m", "long", f"--shard={name}", "--numprocesses", str(SHARDS[name].processes)]
    status = pytest.main([*options, *arguments], plugins=[count])
    print(f"shard {name}: {count.passed} passed in {time.monotonic() - began:.0f} s", flush=True)
    return int(status)


def run_all(arguments: list[str]) -> int:
    """List all shards and run each in a process of its own. Returns the first exit status that is not 0."""
    for name, shard in SHARDS.items():
        print(f"{name:10} {shard.what}")
    print("One of them alone: make test-long SHARD=isolation", flush=True)
    command = [sys.executable, "-m", "tests.shards"]
    ends = [subprocess.run([*command, name, *arguments], check=False).returncode for name in SHARDS]
    return next((end for end in ends if end != 0), 0)


def main() -> int:
    """Take a shard's name, or none, and then options for pytest."""
    match sys.argv[1:]:
        case [name, *arguments] if name in SHARDS:
            return run(name, arguments)
        case [name, *_] if not name.startswith("-"):
            print(f"There is no shard {name}. Choose one of {', '.join(SHARDS)}.", file=sys.stderr)
            return 2
        case arguments:
            return run_all(arguments)


if __name__ == "__main__":
    sys.exit(main())
