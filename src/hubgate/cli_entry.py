"""Where the command `hubgate` begins: healthchecks are answered before anything else is imported."""

import sys


def main() -> None:
    """Run `hubgate probe URL` at once, and everything else by click."""
    arguments = sys.argv[1:]
    if len(arguments) == 2 and arguments[0] == "probe" and not arguments[1].startswith("-"):
        from hubgate import cli_probe  # noqa: PLC0415 - lazy

        sys.exit(cli_probe.run(arguments[1]))
    from hubgate import cli  # noqa: PLC0415 - lazy

    try:
        cli.main()
    except ModuleNotFoundError as error:
        if error.name != "hubgate.backend":
            raise
        sys.exit("hubgate: only the proxy is installed here; the backend has an image of its own")
