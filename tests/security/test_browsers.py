"""A web page in a browser on the host can neither read from nor change the local gateway."""

from tests.security.attacks.browsers import judge


def test_no_page_of_another_site_reads_or_changes_anything():
    report = judge()
    assert report["problems"] == []
    assert report["vectors"] > 300
