from bench.startup import best_cpu_s


def test_cpu_seconds_of_help_are_measured():
    assert 0 < best_cpu_s("--help") < 5
