"""`python -m tests.hostile [PART OF AN ID …]`: play the catalogue on a product, and print what it did."""

import json
import sys
import tempfile
from pathlib import Path

from tests.e2e.product import started
from tests.hostile.catalogue import CATALOGUE
from tests.hostile.stage import REPORT, by_row, staged, table


def main() -> int:
    """Play the attacks whose ids have one of the arguments in them, or all. Returns 1 if one did harm."""
    wanted = [one for one in CATALOGUE if not sys.argv[1:] or any(part in one.id for part in sys.argv[1:])]
    failed = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        started(Path(folder) / "run") as product,
        staged(product) as stage,
    ):
        print(f"usual first token: {stage.usual:.3f} s", flush=True)
        for attack in wanted:
            failures = stage.play(attack).failures(attack, stage.limit)
            failed += bool(failures)
            print(attack.id, *failures, sep="\n    ", flush=True)
    report = json.loads(REPORT.read_text(encoding="utf-8"))
    print(table(report), by_row(report), sep="\n\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
