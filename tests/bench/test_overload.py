from bench.overload.__main__ import measure, measure_bank_queue, p99_ms


def test_a_service_that_is_asked_for_too_much_answers_what_it_can_and_refuses_the_rest():
    figures = measure(num_clients=80, seconds=1.5)
    assert figures["errors_5xx"] == 0
    assert figures["num_accepted"] > 0 and figures["num_rejected"] > 0
    assert 0 < figures["throughput_of_ideal"] <= 1.1
    assert min(figures["accepted_p99_ms"], figures["livez_p99_ms"]) > 0


def test_a_percentile_of_nothing_is_nothing():
    assert p99_ms([]) == 0 and p99_ms([0.1] * 100) == 100


def test_banks_are_finished_under_many_clients_and_none_for_callers_who_have_gone():
    figures = measure_bank_queue(num_clients=24, seconds=3)
    assert figures["bank_errors"] == 0
    assert figures["bank_goodput"] > 0.5
    assert figures["abandoned_work"] <= 0.2
    assert figures["bank_left"] > 0
