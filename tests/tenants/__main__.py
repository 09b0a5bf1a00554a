"""`python -m tests.tenants [PART OF AN ID …]`: play what one does to others, and print it."""

import json
import sys
import tempfile
from pathlib import Path

from tests.tenants.catalogue import PLAYS
from tests.tenants.stage import REPORT, staged, table


def main() -> int:
    """Play those whose ids have one of the arguments in them, or all. Returns 1 if one did harm."""
    wanted = [one for one in PLAYS if not sys.argv[1:] or any(part in one.id for part in sys.argv[1:])]
    failed = 0
    with tempfile.TemporaryDirectory() as folder, staged(Path(folder) / "run") as stage:
        for play in wanted:
            failures = stage.play(play).failures(play)
            failed += bool(failures)
            report = json.loads(REPORT.read_text(encoding="utf-8"))
            print(table({play.id: report[play.id]}), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
