"""The proxy's own Hub client, for each test that asks for one."""

from tests.fakes.hub_client import client, clock, hub, make_client, metrics, rogue, rogue_client

__all__ = ("client", "clock", "hub", "make_client", "metrics", "rogue", "rogue_client")
