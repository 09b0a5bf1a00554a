"""Which backend takes a request."""

import random
from collections import Counter, OrderedDict
from math import ceil

from hubgate.proxy.auth.authorization import Access
from hubgate.proxy.upstream.balancer import BOUND, FIRST_PAUSE, HOT, Balancer, Lease, Member
from hubgate.wire.control_api import EngineInfo, EngineQueue
from hubgate.wire.repo import RepoRef
from tests.fakes.clock import Clock

BASE = RepoRef.parse("demo/tiny@" + "a" * 40)
ON_BASE = Access(BASE)


def lora(number: int) -> Access:
    return Access(BASE, RepoRef.parse(f"alice/lora-{number}@" + "b" * 40))


def engine(
    *adapters: str, state: str = "ready", places: int = 0, queue: EngineQueue | None = None
) -> EngineInfo:
    facts = {"id": "e", "boot": "b", "port": 8200, "base": str(BASE), "state": state}
    return EngineInfo(**facts, adapters=adapters, places=places, queue=queue)  # type: ignore[arg-type]


def members(count: int, *, weight: int = 100, places: int = 0) -> list[Member]:
    """Backends that all run the base."""
    made = [Member(f"gpu-{number}", weight) for number in range(count)]
    for member in made:
        member.open = True
        member.engines = {"e": engine(places=places)}
    return made


def balancer(*among: Member, clock: Clock | None = None) -> Balancer:
    made = Balancer(clock or Clock())
    made.replace(among)
    return made


def lease(spread: Balancer, access: Access, avoided: Member | None = None) -> Lease:
    found = spread.lease(access, avoided)
    assert found is not None
    return found


def hold(spread: Balancer, member: Member, *accesses: Access) -> None:
    """Have a backend hold these adapters, as its next hello tells."""
    member.engines = {"e": engine(*(access.model for access in accesses), places=member.engines["e"].places)}
    spread.changed()


def test_nobody_is_nobody() -> None:
    """Without a backend that is open there is none."""
    (closed,) = members(1)
    closed.open = False
    assert balancer().lease(ON_BASE) is None
    assert balancer(closed).lease(ON_BASE) is None


def test_the_load_of_a_base_is_bounded_in_every_play() -> None:
    """Whatever comes, ends, closes and opens: no choice goes over the bound, by a count of its own."""
    for seed in range(30):
        draw = random.Random(seed)  # noqa: S311 - a play that can be repeated
        among = [Member(f"gpu-{at}", draw.choice((50, 100, 300))) for at in range(draw.randint(2, 6))]
        for member in among:
            member.open, member.engines = True, {"e": engine()}
        spread = balancer(*among)
        held: list[Lease] = []
        for _ in range(400):
            event = draw.random()
            if event < 0.02 and sum(member.open for member in among) > 1:
                draw.choice([member for member in among if member.open]).open = False
                spread.changed()
            elif event < 0.04:
                draw.choice(among).open = True
                spread.changed()
            elif event < 0.4 and held:
                held.pop(draw.randrange(len(held))).end()
            else:
                opened = [member for member in among if member.open]
                loads = Counter(one.member.name for one in held)
                total = sum(loads[member.name] for member in opened) + 1
                chosen = lease(spread, ON_BASE)
                held.append(chosen)
                assert chosen.member.open
                fair = total * chosen.member.weight / sum(member.weight for member in opened)
                assert loads[chosen.member.name] + 1 <= max(BOUND * fair, ceil(fair))


def test_a_hot_base_is_spread_evenly_and_by_weight() -> None:
    """One after another or many at once: the fullest backend has at most a quarter more than its share."""
    for weights in ((100, 100, 100), (100, 200, 300), (1, 1)):
        among = members(len(weights))
        for member, weight in zip(among, weights, strict=True):
            member.weight = weight
        for at_once in (1, 24):
            spread, taken, held = balancer(*among), Counter[str](), list[Lease]()
            for _ in range(1200):
                held.append(lease(spread, ON_BASE))
                taken[held[-1].member.name] += 1
                if len(held) == at_once:
                    held.pop(0).end()
            shares = [taken[one.name] / one.weight * sum(weights) / 1200 for one in among]
            assert max(shares) <= BOUND
            assert min(shares) > 0.75


def test_every_proxy_has_the_same_order_and_little_moves() -> None:
    """Adapters are where they were when a backend comes or goes, but for those of that backend."""
    among = members(8)
    places = {number: lease(balancer(*among), lora(number)).member.name for number in range(200)}
    again = balancer(*reversed(among))
    assert places == {number: _where(again, lora(number)) for number in range(200)}
    assert len(set(places.values())) == 8
    fewer = balancer(*among[1:])
    moved = {number for number in range(200) if _where(fewer, lora(number)) != places[number]}
    assert moved == {number for number, name in places.items() if name == "gpu-0"}


def _where(spread: Balancer, access: Access) -> str:
    found = lease(spread, access)
    found.end()
    return found.member.name


def test_weights_share_out_the_models() -> None:
    """Twice the weight is the home of twice as many adapters, roughly."""
    small, large = members(2)
    large.weight = 200
    homes = Counter(_where(balancer(small, large), lora(number)) for number in range(600))
    assert 1.5 < homes[large.name] / homes[small.name] < 2.7


def test_whoever_holds_the_model_is_first() -> None:
    """A request for a warm adapter starts no load elsewhere, however its order is."""
    for holder in (among := members(4)):
        spread = balancer(*among)
        hold(spread, holder, lora(1))
        found = lease(spread, lora(1))
        assert (found.member, found.engine) == (holder, holder.engines["e"])
        hold(spread, holder)


def test_a_base_that_runs_is_not_started_elsewhere() -> None:
    """Idle backends without it get nothing of it; all adapters of a base that runs nowhere go to one."""
    busy, *idle = members(4)
    for member in idle:
        member.engines = {}
    spread = balancer(busy, *idle)
    assert {lease(spread, ON_BASE).member for _ in range(50)} == {busy}
    busy.engines = {"e": engine(state="stopping")}
    spread.changed()
    assert len({_where(spread, lora(number)) for number in range(20)}) == 1


def test_cold_adapters_fill_places_everywhere_first() -> None:
    """24 adapters find the 3 x 8 places, and none has to leave; who waits for one waits together."""
    among = members(3, places=8)
    spread = balancer(*among)
    held: list[list[Access]] = [[] for _ in among]
    for number in range(24):
        found, beside = lease(spread, lora(number)), lease(spread, lora(number))
        assert found.member is beside.member
        at = among.index(found.member)
        held[at].append(lora(number))
        hold(spread, found.member, *held[at])
        found.end()
        beside.end()
    assert [len(one) for one in held] == [8, 8, 8]


def test_a_hot_adapter_gets_a_second_backend() -> None:
    """It does once it was over its backend's bound for long, unless the engine has free seats."""
    among = members(3)
    spread = balancer(*among)
    hold(spread, among[0], lora(1))
    first = [lease(spread, lora(1)) for _ in range(HOT)]
    assert {one.member for one in first} == {among[0]}
    second = lease(spread, lora(1))
    assert second.member is not among[0]
    assert second.engine is None
    assert lease(spread, lora(1)).member is among[0]  # one load at a time
    hold(spread, second.member, lora(1))
    assert lease(spread, lora(1)).member is second.member
    calm = members(3)
    calm[0].engines = {"e": engine(lora(1).model, queue=EngineQueue(seats=256))}
    spread = balancer(*calm)
    assert {lease(spread, lora(1)).member for _ in range(100)} == {calm[0]}


def test_a_backend_with_a_longer_queue_is_less_preferred() -> None:
    """What waits at an engine's gate counts as load there, as the last hello tells it."""
    crowded, free = members(2)
    spread = balancer(crowded, free)
    crowded.engines = {"e": engine(queue=EngineQueue(waiting=20))}
    lease(spread, ON_BASE).end()
    spread.told(crowded)
    assert {lease(spread, ON_BASE).member for _ in range(12)} == {free}
    crowded.engines = {"e": engine(queue=EngineQueue())}
    spread.told(crowded)
    assert {lease(spread, ON_BASE).member for _ in range(7)} == {crowded}


def test_what_drains_gets_nothing_new_and_the_rest_goes_on() -> None:
    """And a backend that is taken out keeps what it has, which counts nowhere any more."""
    among = members(3)
    spread = balancer(*among)
    held = [lease(spread, ON_BASE) for _ in range(9)]
    among[0].open = False
    spread.changed()
    assert {lease(spread, ON_BASE).member for _ in range(20)} == set(among[1:])
    spread.replace(among[2:])
    for one in held:
        one.end()
    assert {lease(spread, ON_BASE).member for _ in range(20)} == {among[2]}


def test_an_engine_that_fails_is_left_alone_and_tried_by_one() -> None:
    """After some failures in a row comes a pause, then one request; each try that fails doubles the pause."""
    clock = Clock()
    bad, good = among = members(2)
    spread = balancer(*among, clock=clock)
    while True:
        one = lease(spread, ON_BASE)
        if one.member is bad and one.failed(clock()):
            break
    assert {lease(spread, ON_BASE).member for _ in range(20)} == {good}
    pause = FIRST_PAUSE
    for _ in range(3):
        clock.now += pause
        tries = [one for one in (lease(spread, ON_BASE) for _ in range(60)) if one.member is bad]
        assert len(tries) == 1
        assert tries[0].failed(clock())
        tries[0].end()
        pause *= 2
        clock.now += pause * 0.9
        assert bad not in {lease(spread, ON_BASE).member for _ in range(20)}
    clock.now += pause
    found = [one for one in (lease(spread, ON_BASE) for _ in range(200)) if one.member is bad]
    found[0].answered()
    found[0].end()
    assert bad in {lease(spread, ON_BASE).member for _ in range(60)}


def test_a_retry_goes_elsewhere_if_it_can() -> None:
    """To another that holds the model, or runs its base; where there is none, to the same again."""
    first, second = members(2)
    spread = balancer(first, second)
    hold(spread, first, lora(1))
    for access in (ON_BASE, lora(1)):
        assert {lease(spread, access, first).member for _ in range(10)} == {second}
    second.open = False
    spread.changed()
    assert lease(spread, ON_BASE, first).member is first


def test_zipf_over_as_many_adapters_as_places_hits_nearly_always() -> None:
    """Two proxies, 24 adapters of Zipf(1.1), 3 x 8 places: at least 90 % of what the offline optimum hits."""
    among = members(3, places=8)
    proxies = [balancer(*among), balancer(*among)]
    engines = {member.name: OrderedDict[str, None]() for member in among}  # least recently used first
    draw, hits, seen = random.Random(1), 0, set[str]()  # noqa: S311
    wanted = list(range(24))
    weights = [1 / (number + 1) ** 1.1 for number in wanted]
    in_flight: list[Lease] = []
    requests = 5000
    for number in draw.choices(wanted, weights, k=requests):
        access, spread = lora(number), draw.choice(proxies)
        found = lease(spread, access)
        in_flight.append(found)
        held = engines[found.member.name]
        hits += access.model in held
        seen.add(access.model)
        held[access.model] = None
        held.move_to_end(access.model)
        if found.engine is None:
            if len(held) > 8:
                held.popitem(last=False)
            found.member.engines = {"e": engine(*held, places=8)}
            for proxy in proxies:
                proxy.changed()
        if len(in_flight) > 16:
            in_flight.pop(draw.randrange(16)).end()
    optimum = requests - len(seen)  # each is loaded once
    assert hits >= 0.9 * optimum
