"""What was once measured of one caller against the others, row by row, and which cases it has become."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Row:
    """`attacks` of tests/hostile and `plays` of tests/tenants are on a real vLLM, most `tests` by order."""

    what: str
    attacks: tuple[str, ...] = ()
    plays: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()


_ENGINES = "tests/backend/engines"
_GATE = "tests/backend/plugin/shares"
_LIMITS = "tests/proxy/limits"
_DOWNLOADS = "tests/backend/downloads/test_turns_at_random.py"
_TURNS = "tests/e2e/test_c_engine_turns.py"

FELL: Final = (
    Row(
        "8 staggered streams on two adapters keep a third one out for ever",
        plays=("lora-slots", "an-adapter-each"),
        tests=(
            f"{_GATE}/test_adapter_slots.py::test_staggered_streams_on_all_slots_do_not_keep_another_adapter_out",
            "tests/e2e/test_c_fair_shares.py::test_a_third_adapter_beside_one_who_keeps_both_slots_busy",
            "tests/e2e/test_c_fair_shares.py::test_a_fourth_adapter_when_that_slot_is_taken_too",
        ),
    ),
    Row(
        "16 streams on 8 adapters take all places",
        plays=("lora-places", "adapters-by-turns", "small-things-evict", "evictions-by-several"),
        tests=(f"{_ENGINES}/test_places_at_random.py::test_streams_on_all_places_keep_nobody_out",),
    ),
    Row(
        "8 downloads that hang stop everybody's cold loads",
        plays=("downloads-hang", "repos-that-are-cut"),
        tests=(f"{_DOWNLOADS}::test_who_comes_is_served_beside_any_number_of_hanging_ones",),
    ),
    Row(
        "300 connections at 256 descriptors",
        attacks=("connections:kept", "connections:kept-by-nobody", "connections:nothing-sent"),
        plays=("connections-and-streams",),
        tests=(
            "tests/threats/test_many_connections.py::test_a_burst_beyond_all_descriptors",
            "tests/proxy/audit/test_writer.py::test_writing_takes_no_descriptor",
            "tests/proxy/http/test_connection_limit.py::test_connections_are_shared_in_a_thousand_plays",
        ),
    ),
    Row(
        "names of 100 old commits, four a second",
        attacks=("hub-old-commits:names",),
        tests=("tests/proxy/hub/test_shares.py::test_a_hundred_old_commits_cost_one_walk",),
    ),
    Row(
        "64 requests with n of 8",
        attacks=("sequences:n", "sequences:n-of-chat", "sequences:prompts"),
        plays=("many-and-one", "answers-with-log-probabilities"),
        tests=(f"{_GATE}/test_fair_order.py::test_eight_answers_count_eight",),
    ),
    Row(
        "64 requests of 8 long prompts each",
        attacks=("long-prompts:one-token", "long-prompts:each-another"),
        plays=("batches-and-streams",),
    ),
    Row(
        "/detokenize of 300,000 ids",
        attacks=("detokenize:many",),
        plays=("what-counts-beside-what-computes",),
    ),
    Row(
        "count_tokens of 20,000 messages, and /v1/responses of 20,000 items",
        attacks=("many-messages:count", "many-messages:responses", "many-messages:messages"),
        tests=("tests/backend/plugin/test_preparation.py::test_who_leaves_while_waiting_is_not_parsed",),
    ),
    Row(
        "regexes of 180 alternatives, each another one",
        attacks=("regex-alternatives:each-another",),
        plays=("grammars-beside-streams",),
    ),
    Row("logprobs of 20", attacks=("logprobs:plain", "logprobs:chat")),
    Row(
        "a client that retries a 503 without pause",
        attacks=("retry-without-pause:rejected", "retry-without-pause:limited"),
        plays=("failing-repos", "refusals-without-pause", "hello-is-late"),
        tests=(f"{_LIMITS}/test_loads.py::test_what_failed_for_a_while_is_told_again",),
    ),
    Row(
        "550 requests at 58.7 s, 600 at 60.1 s",
        plays=("window-edge",),
        tests=(
            f"{_LIMITS}/test_plays.py::test_no_minute_has_more_than_the_limit",
            f"{_LIMITS}/test_limiter.py::test_a_burst_at_the_edge_of_a_minute_gets_no_second_one",
        ),
    ),
    Row(
        "200 aborted streams a second",
        attacks=("aborted-streams:begun", "aborted-streams:sent"),
        plays=("streams-and-their-exits", "waits-that-are-left", "leaves-at-each-stage"),
    ),
)

READ: Final = (
    Row(
        "an open stream keeps another base out for ever",
        tests=(
            f"{_TURNS}::test_streams_that_do_not_end_keep_another_base_out_for_a_tenure",
            f"{_ENGINES}/test_turns.py::test_an_open_stream_does_not_keep_another_base_out",
        ),
    ),
    Row(
        "a request a minute ends the other's engine",
        tests=(
            f"{_TURNS}::test_a_request_now_and_then_does_not_end_anothers_engine",
            f"{_ENGINES}/test_turns.py::test_a_request_now_and_then_does_not_end_anothers_engine",
        ),
    ),
    Row(
        "one caller's repos evict everybody's from the store",
        plays=("store-evict",),
        tests=(
            "tests/backend/store/test_store.py::test_whoever_causes_it_pays",
            "tests/backend/store/test_store.py::test_who_has_more_than_their_share_makes_room",
        ),
    ),
    Row(
        "1,024 loads for all, and those that were left do not count",
        plays=("loads-left",),
        tests=("tests/backend/loading/test_under_way.py::test_loads_that_were_left_count_and_give_way",),
    ),
    Row(
        "each named commit is a model of its own",
        attacks=("hub-old-commits:names",),
        tests=(
            f"{_LIMITS}/test_loads.py::test_nobody_is_above_their_share",
            "tests/backend/fairness/test_shares.py::test_who_has_their_share_pays_with_their_own",
        ),
    ),
    Row(
        "no limit for an organization",
        plays=("an-organization",),
        tests=(
            f"{_LIMITS}/test_organizations.py::test_members_use_up_the_requests_of_all",
            f"{_LIMITS}/test_organizations.py::test_members_share_cold_loads",
        ),
    ),
)

UNTRIED: Final = (
    Row("heartbeats held open", attacks=("heartbeats-held:unread",)),
    Row(
        "Redis at the edges of windows",
        tests=(f"{_LIMITS}/test_plays.py::test_redis_counts_as_this_process_does",),
    ),
    Row(
        "steps of the clock",
        tests=(
            f"{_LIMITS}/test_plays.py::test_a_clock_that_is_set_forward_forgets",
            f"{_LIMITS}/test_plays.py::test_a_clock_that_is_set_back_far_locks_nobody_out",
            f"{_LIMITS}/test_running.py::test_a_step_of_the_wall_clock_changes_no_limit",
        ),
    ),
    Row(
        "keys that are read again without a descriptor",
        tests=("tests/wire/test_keyfile.py::test_without_a_descriptor_the_last_good_keys_count",),
    ),
    Row(
        "the size of images",
        tests=(f"{_ENGINES}/test_argv.py::test_media_are_bounded_unless_the_operator_says_otherwise",),
    ),
    Row("batches of a pooling model", attacks=("many-messages:reranked",)),
    Row("grammars of tools", attacks=("grammar-shapes:tools", "grammar-repetitions:format")),
)

HELD: Final = (
    Row("64 long streams", attacks=("endless-answers:plain",), plays=("identities-in-a-crowd", "a-herd")),
    Row(
        "large schemas, patterns of classes",
        attacks=("grammar-repetitions:length", "grammar-repetitions:classes"),
    ),
    Row(
        "bad words, stop texts, penalties",
        attacks=("sampling:bad-words", "sampling:stops", "sampling:penalties"),
    ),
    Row("unknown repos", attacks=("hub-junk-tokens:unknown-repos",)),
    Row("two tokens of one user", plays=("two-devices",)),
)

ROWS: Final = (*FELL, *READ, *UNTRIED, *HELD)
