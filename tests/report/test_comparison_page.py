"""The page of a comparison, and its words: what they say is what was found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from comparison_factory import comparison_of, make_comparison, make_measured
from page_parser import Page

from elbowroom.report.comparison_page import render_comparison
from elbowroom.report.comparison_words import notes, rows, sentences
from elbowroom.report.figures import MINUS, number

HOSTILE = """</script><script>alert(1)</script><img src=x onerror="alert('2')">&amp;{{ 71*73 }}"""


def page(found, facts=()) -> Page:
    return Page(render_comparison(found, "fonts/test", facts))


def test_the_words_order_what_is_told_and_say_what_is_not():
    found = make_comparison()
    told = sentences(found)
    certified, attacked = found.certified, found.attacked
    assert certified.groups[-1] == attacked.groups[-1] == ("plain",)
    first, second = attacked.order[:2]
    assert f"By attacked distance: {first} and {second}, then plain." in told
    each = {(d.first, d.second): d for d in attacked.differences}
    gap, behind = each[first, second], each[second, "plain"]
    assert (
        f"By attacked distance, {first} and {second} are not separated by these 40 samples: the "
        f"means differ by {number(gap.mean)} L2 [{number(gap.low)}, {number(gap.high)}]; if that "
        "is the true difference, about "
    ) in " ".join(told)
    assert (
        f"By attacked distance, {second} is ahead of plain by {number(behind.mean)} L2 "
        f"[{number(behind.low)}, {number(behind.high)}] on average."
    ) in told
    proved = next(p for p in found.proved if (p.first, p.second) == ("plain", "robust"))
    assert proved.second_farther > 0 == proved.first_farther
    assert (
        f"Proved: the decision boundary of robust is farther than that of plain on "
        f"{100 * proved.second_farther:.1f}% of the samples; the rest is open."
    ) in told
    assert "Of no other two an order is proved on any sample." in told


def test_two_that_are_told_apart_need_one_sentence_for_each_side():
    told = sentences(make_comparison(("plain", "robust")))
    assert len(told) == 3
    assert told[0].startswith("By certified radius, robust is ahead of plain by ")
    assert told[1].startswith("By attacked distance, robust is ahead of plain by ")


@pytest.mark.parametrize(
    ("enough", "words"),
    [(6.2, "about 7 "), (123.0, "about 130 "), (45_678.0, "about 46,000 "), (3e7, "a million")],
)
def test_the_number_of_samples_that_would_do_is_rounded_up(enough, words):
    found = make_comparison(("robust", "rival"))
    (each,) = found.attacked.differences
    open_ = replace(each, low=-1.0, enough=enough)
    ranking = replace(found.attacked, differences=(open_,))
    assert words in " ".join(sentences(replace(found, attacked=ranking)))


def test_odd_cases_have_words():
    same = make_measured(20, 1.0, 0)
    assert "By attacked distance, a and b are not separated: their means are the same." in (
        sentences(comparison_of({"a": same, "b": same}))
    )
    few = sentences(make_comparison(("a", "b"), samples=3))
    assert few[0] == "3 samples cannot tell an order at 95%: it takes 6 at least."
    assert not any("separated" in sentence or "ahead" in sentence for sentence in few)
    assert sentences(comparison_of({"a": same})) == [
        "There is one classifier: nothing to compare it with."
    ]
    once = replace(same, distance=same.distance + 3.0 * (np.arange(20) == 4))
    assert "too few samples differ to tell whether 0.150 L2 is chance." in (
        " ".join(sentences(comparison_of({"a": same, "b": once})))
    )
    wrong = make_measured(20, 1.0, 0, wrong=20)
    found = comparison_of({"a": same, "wrong": wrong})
    assert "wrong classifies no sample rightly: all its distances are 0." in notes(found)
    bare = replace(same, uncertified="sort has no rule", radius=np.zeros(20))
    found = comparison_of({"a": same, "bare": bare})
    assert "No certificate covers bare: sort has no rule." in notes(found)
    assert rows(found)[1][2::2] == ("none", "none")
    assert "No order by certified radius: fewer than two" in " ".join(sentences(found))
    endless = make_measured(20, 1.0, 1, failed=3, box=np.inf)
    boundless = make_measured(20, 1.0, 0, box=np.inf)
    said = " ".join(notes(comparison_of({"a": boundless, "endless": endless})))
    assert "The attack found nothing on 3 samples of endless." in said
    assert "Without input bounds endless cannot be ranked by attacked distance." in said


def test_everything_is_on_the_page():
    found = make_comparison(failed=1)
    shown = page(found, [("seed", "17")])
    assert shown.unbalanced == []
    for text in [*sentences(found), *notes(found), "seed 17", "an attack", "1000 resamples"]:
        assert " ".join(text.split()) in shown.text
    for row in rows(found):
        assert " ".join(row) in shown.text
    # The first less the second, in the order in which the classifiers were given.
    (gap,) = [d for d in found.attacked.differences if {d.first, d.second} == {"plain", "robust"}]
    text = f"{MINUS}{number(gap.mean)} [{number(-gap.high)}, {number(-gap.low)}]"
    assert text in shown.text


def test_the_charts_draw_both_sides_of_each_and_every_difference():
    found = make_comparison()
    charts = page(found).charts
    assert set(charts) == {"chart-curves", "chart-certified", "chart-attacked"}
    curves = charts["chart-curves"]["data"]
    assert len(curves) == 6
    for place, (name, both) in enumerate(found.curves.items()):
        for trace, values in zip(curves[2 * place : 2 * place + 2], both, strict=True):
            assert trace["name"] == name
            assert trace["x"] == found.eps.tolist()
            assert trace["y"] == values.tolist()
    (dots,) = charts["chart-attacked"]["data"]
    for k, each in enumerate(reversed(found.attacked.differences)):
        assert dots["x"][k] == each.mean
        assert dots["x"][k] + dots["error_x"]["array"][k] == pytest.approx(each.high)
        assert dots["x"][k] - dots["error_x"]["arrayminus"][k] == pytest.approx(each.low)
        assert (dots["marker"]["symbol"][k] == "circle") == each.separated


@pytest.mark.parametrize("samples", [1, 3])
def test_without_intervals_there_are_no_charts_of_differences(samples):
    shown = page(make_comparison(samples=samples, wrong=0))
    assert set(shown.charts) == {"chart-curves"}
    assert shown.unbalanced == []


def test_names_from_outside_stay_text():
    found = make_comparison((HOSTILE, "b"))
    shown = page(found, [(HOSTILE, HOSTILE)])
    assert len(shown.scripts) == 3
    assert not shown.all("img")
    assert HOSTILE in shown.text
    assert "5183" not in shown.text
    for chart in shown.charts.values():
        for trace in chart["data"]:
            assert "<script" not in str(trace)
        assert "<script" not in str(chart["layout"])
