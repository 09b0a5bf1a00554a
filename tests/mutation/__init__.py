"""Breaks the code in small ways and asks the tests whether they notice: `make mutants`.

The score is the share of mutants that some test fails for. It is measured for what decides who gets
what: `wire`, `proxy/auth` and `proxy/hub`. A survivor is a mutant that no test fails for; each
stands in `survivors.toml` with the reason why it may, or the run fails.
"""
