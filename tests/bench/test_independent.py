"""The bench of independent phrases alternates between both modes with the same phrases."""

from bench.independent import costs
from tests.fakes import FakeDetector


def test_both_ways_are_asked_for_the_same_phrases():
    asked = []

    class Noting(FakeDetector):
        def detect(self, picture, phrases, *, box_threshold=None, independent=False):
            asked.append((tuple(phrases), independent))
            return super().detect(picture, phrases, independent=independent)

    figures = costs(Noting(), ("car", "wheel"), rounds=2)
    assert figures["phrases"] == 2 and {"together_ms", "independent_ms", "phrase_ms"} <= set(
        figures
    )
    one, apart = (("car", "wheel"), False), (("car", "wheel"), True)
    assert asked == [one, one, apart, one, apart]
