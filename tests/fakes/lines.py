"""Headers as the proxy makes them, to be looked at."""


def by_name(lines: str) -> dict[str, str]:
    """The headers of such lines, each of which ends as it must."""
    assert lines.replace("\r\n", "").isprintable()
    assert lines.endswith("\r\n") or not lines
    return dict(line.split(": ", 1) for line in lines.split("\r\n")[:-1])
