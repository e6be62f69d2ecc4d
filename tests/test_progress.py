"""Progress bars: they count, show the title as it is, and are silent when they are not wanted."""

import pytest

from dinolab.progress import progress_bar, track

TITLE = "features of a[b]/[red]"  # a file name that rich would read as markup


def test_a_bar_counts_and_shows_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(TITLE, 5, shown=True, unit="images") as advance:
        advance(2)
        advance()
    out, err = capsys.readouterr()
    assert out == "" and TITLE in err and "3/5" in err and "images/s" in err


def test_a_bar_without_unit_shows_no_speed(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("work", 1, shown=True) as advance:
        advance()
    assert "1/1" in (shown := capsys.readouterr().err) and "/s" not in shown


def test_tracked_items_come_one_by_one_and_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    made = []
    items = track((made.append(n) or n for n in range(3)), TITLE, 10, shown=True, start=6)
    assert next(items) == 0 and made == [0]  # no item is read ahead
    assert list(items) == [1, 2]
    assert "9/10" in capsys.readouterr().err


def test_a_bar_that_is_not_wanted_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track("abc", TITLE, 3, shown=False)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_a_failure_inside_a_bar_is_raised() -> None:
    with pytest.raises(KeyError), progress_bar("work", 1, shown=False):
        raise KeyError
