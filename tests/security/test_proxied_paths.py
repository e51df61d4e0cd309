"""No request target or header makes the gateway proxy to another route of the segmenter."""

from tests.security.attacks.proxied_paths import judge


def test_no_target_and_no_header_leads_to_another_route_of_the_segmenter():
    report = judge()
    assert report["problems"] == []
    assert report["targets"] > 800 and report["forwarded"] > 0
