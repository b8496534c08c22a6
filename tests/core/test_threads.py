"""Work in threads: results in the order of the items, whatever the number of threads."""

import time

import pytest

from mtseg.core import threads


@pytest.mark.parametrize("most", [1, 4])
def test_results_have_the_order_of_the_items(monkeypatch, most):
    monkeypatch.setattr(threads, "MOST", most)
    assert threads.in_threads(lambda item: time.sleep(item) or item, [0.03, 0.0, 0.01]) == [0.03, 0.0, 0.01]
    assert threads.in_threads(str, []) == []


@pytest.mark.parametrize("most", [1, 4])
def test_an_error_is_raised(monkeypatch, most):
    monkeypatch.setattr(threads, "MOST", most)
    with pytest.raises(ZeroDivisionError):
        threads.in_threads(lambda item: 1 / item, [1, 0, 2])
