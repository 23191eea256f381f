"""`shrinknet bench`, and rankings by races and screens, as a stranger types them."""

import json

import pytest


def test_bench_times_a_ranking_beside_the_plain_loop(type_command) -> None:
    answer = type_command("bench", "net.pt2", "--samples", "64", "--json")
    assert answer.status == 0, answer.err
    facts = json.loads(answer.out)
    assert facts["neurons"] == 40
    assert facts["neurons_per_second"] == pytest.approx(40 / facts["seconds"])
    assert facts["over_a_forward_pass"] == pytest.approx(facts["seconds"] / facts["seconds_of_a_forward_pass"])
    assert "neurons per second: 40 in the time of" in answer.err


def test_a_plan_says_what_it_would_cost_and_does_nothing(type_command) -> None:
    words = ("bench", "net.pt2", "--plan", "--samples", "1000000")
    one, many = (json.loads(type_command(*words, "--workers", str(count), "--json").out) for count in (1, 10))
    assert one["multiply_accumulates"] == many["multiply_accumulates"]
    assert "seconds" not in one, "nothing is timed but the machine's two rates"
    assert many["forecast_seconds"] < one["forecast_seconds"]
    answer = type_command(*words, "--remove", "20")
    assert answer.status == 0
    assert answer.err.strip().endswith("with 1 worker like this machine.")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--samples", "1"), "--samples must be a whole number of at least 2. Got 1."),
        (("--plan", "--remove", "40"), "--remove must be below 40, the number of neurons. Got 40."),
        (("--plan", "--criterion", "taylor-2-diagonal"), "--criterion must be one that says what it costs"),
    ],
)
def test_what_bench_cannot_do_is_one_sentence(type_command, words, sentence: str) -> None:
    answer = type_command("bench", "net.pt2", *words)
    assert answer.status == 2
    assert sentence in answer.err


def test_the_first_few_are_those_of_the_whole_ranking(type_command) -> None:
    whole = type_command("rank", "net.pt2", "--data", "data.npz").out.splitlines()
    first = [line.rpartition(",")[0] for line in whole[1:6]]
    raced = type_command("rank", "net.pt2", "--data", "data.npz", "--first", "5")
    screened = type_command("rank", "net.pt2", "--data", "data.npz", "--first", "5", "--screen", "20")
    for answer in (raced, screened):
        assert answer.status == 0, answer.err
        lines = answer.out.splitlines()
        assert sorted(line.partition(",")[2].rpartition(",")[0] for line in lines[1:]) == sorted(
            line.partition(",")[2] for line in first
        )
        assert "Races looked at" in answer.err
    assert "Neurons that taylor-2 did not put first were never ablated (20 at most)" in screened.err


@pytest.mark.parametrize(("words", "sentence"), [
    (("--first", "3", "--criterion", "taylor-1"), "--first must be used with ablation, unclipped."),
    (("--first", "40"), "--first must be a whole number from 1 to 39"),
    (("--confidence", "0.9"), "--confidence and --screen must be left out for an order of all neurons. Got 0.9 and None. Ask for the --first few alone"),
    (("--memory", "100"), "--memory must be enough for one sample's pass through this network"),
    (("--executor", "threads"), "--executor must be one of serial, processes, ray. Got 'threads'."),
])  # fmt: skip
def test_what_rank_cannot_do_is_one_sentence(type_command, words, sentence: str) -> None:
    answer = type_command("rank", "net.pt2", "--data", "data.npz", *words)
    assert answer.status == 2
    assert sentence in answer.err
