"""The benchmark of downloads runs; its figures are not judged here."""

from __future__ import annotations

from benchmarks.downloads import MB, downloads


def test_each_server_gives_a_figure() -> None:
    figures = list(downloads(2 * MB, rounds=1))
    assert [figure.name for figure in figures] == ["download, limited per connection", "download, not limited"]
    assert all(figure.value > 0 and "2 MB" in figure.detail for figure in figures)
