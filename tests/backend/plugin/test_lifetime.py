"""Each vLLM process dies with the one that started it."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

# `spawn` imports this file anew, as vLLM's children load plugins anew.
CODE = """
    import multiprocessing, os, time
    from hubgate.backend.plugin.lifetime import register
    register()
    register()

    def live():
        print(os.getpid(), flush=True)
        time.sleep(600)

    if __name__ == "__main__":
        multiprocessing.get_context("{start}").Process(target=live).start()
        time.sleep(600)
"""


def _is_alive(pid: int) -> bool:
    try:
        return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_children_die_with_a_killed_parent(start: str, tmp_path: Path) -> None:
    """Spawned children register themselves; forked ones lose the setting and get it again."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(CODE).format(start=start), encoding="utf-8")
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert _is_alive(child)
        parent.kill()
    while _is_alive(child):  # until this test's own timeout
        time.sleep(0.02)


def test_it_imports_no_vllm() -> None:
    """It runs in every process of vLLM, before anything else is there."""
    code = "import sys, hubgate.backend.plugin.lifetime; print('vllm' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"False\n"
