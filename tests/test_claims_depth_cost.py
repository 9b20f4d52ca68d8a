"""Verdicts on what each N takes to learn a depth, and whether one pass stops: made-up rows."""

import pytest

from experiments.report import claims_depth_cost, claims_stop
from experiments.report.verdicts import Verdict
from tests.test_cost_of_depth import ROWS, point, took
from tests.test_report_claims import source


@pytest.mark.parametrize(
    "rows, few, behind",
    [
        (ROWS, Verdict.SHOWN, Verdict.SHOWN),
        (ROWS[:4], Verdict.NOT_SHOWN, Verdict.NOT_RUN),  # one depth, nothing apart
        ([*took([2, 2.1], 1), *took([4, 4.1], 2)], Verdict.NOT_SHOWN, Verdict.NOT_RUN),
        (ROWS[4:6], Verdict.NOT_RUN, Verdict.NOT_RUN),  # N = 1 alone
        (took([2], 1) + took([1], 2), Verdict.NOT_RUN, Verdict.NOT_RUN),  # one seed
        # Less at both depths by as much: few passes are better, and no more so where it is deeper.
        (
            [*took([4, 4.1], depth=1), *took([2, 2.1], 2, depth=1)]
            + [*took([9, 9.1]), *took([4, 4.4], 2)],
            Verdict.SHOWN,
            Verdict.NOT_SHOWN,
        ),
        (  # Less at one depth and more at another is neither.
            [*took([4, 4.1], depth=1), *took([2, 2.1], 2, depth=1)]
            + [*took([4, 4.1]), *took([9, 9.4], 2)],
            Verdict.NOT_SHOWN,
            Verdict.NOT_SHOWN,
        ),
    ],
)
def test_verdicts_on_the_cost_of_depth(rows, few, behind):
    made_up = source(rows, "cost_of_depth")
    assert claims_depth_cost.few_passes(made_up).verdict == few
    assert claims_depth_cost.falls_behind(made_up).verdict == behind


@pytest.mark.parametrize(
    "rows, verdict, reverse",
    [
        (ROWS, Verdict.NOT_SHOWN, False),  # at equal cost, whatever N = 2 does
        ([*took([2, 2.1]), *took([2, 2.1], 2), *took([4, 4.1], 4)], Verdict.SHOWN, False),
        ([*took([4, 4.1]), *took([9, 9.1], 2), *took([2, 2.1], 4)], Verdict.NOT_SHOWN, True),
        (  # More at one depth and less at another is neither.
            [*took([2, 2.1], depth=1), *took([2, 2.1], 2, depth=1), *took([4, 4.1], 4, depth=1)]
            + [*took([9, 9.1]), *took([4, 4.1], 4)],
            Verdict.NOT_SHOWN,
            True,
        ),
        (ROWS[4:6], Verdict.NOT_RUN, False),
        ([*took([2, 2.1]), *took([4, 4.1], 2)], Verdict.NOT_RUN, False),  # two are few
    ],
)
def test_verdicts_on_what_many_passes_take(rows, verdict, reverse):
    found = claims_depth_cost.many_passes(source(rows, "cost_of_depth"))
    assert found.verdict == verdict
    assert ("the other way round" in found.numbers) == reverse


def test_one_larger_n_is_compared_over_all_depths():
    deep = [*took([9, 9.1]), *took([2, 2.1], 4)]  # N = 2 was not run there
    shallow = [*took([4, 4.1], depth=1), *took([4, 4.1], 2, depth=1)]
    made_up = source([*shallow, *deep], "cost_of_depth")
    found = claims_depth_cost.few_passes(made_up)
    assert found.verdict == Verdict.NOT_SHOWN and "t = 2" not in found.numbers
    assert "test split" in found.scale and "to 0.9 with at most" in found.scale
    assert claims_depth_cost.falls_behind(made_up).verdict == Verdict.NOT_RUN
    limits = [{**one, "reached": False} for one in took([9, 9.1])]
    not_all = source([*shallow, *limits, *took([4, 4.1], 2)], "cost_of_depth")
    assert claims_depth_cost.falls_behind(not_all).verdict == Verdict.NOT_RUN


def test_one_pass_stops_where_its_depth_is_a_run_of_its_own():
    def in_vain(*last, depth=2):
        stands = [(60, 0.4), (70, 0.4), (80, 0.41), (100, 0.41), *last]
        curve = [point(flops, exact_accuracy=accuracy) for flops, accuracy in stands]
        return [{**one, "reached": False} for one in took([100] * 5, depth=depth, curve=curve)]

    def verdict(rows):
        learned = took([9, 9.1, 9.2, 9.3, 9.4], 2)
        return claims_stop.one_pass_stops(source([*rows, *learned], "cost_of_depth")).verdict

    assert verdict(in_vain()) == Verdict.SHOWN
    # That it rises at another depth does not matter, at this one it does.
    assert verdict([*in_vain(), *in_vain((100, 0.6), depth=1)]) == Verdict.SHOWN
    assert verdict([*in_vain((100, 0.6))[:1], *in_vain()[1:]]) == Verdict.NOT_SHOWN


def test_a_rise_is_that_of_the_greatest_depth():
    accuracies = [(50, 0.9), (60, 0.1), (75, 0.3), (80, 0.5), (100, 0.7)]
    curve = [
        {
            "train_flops": flops,
            "exact_accuracy": 0.5,
            "by_depth": {"2": {"exact_accuracy": 0.8}, "10": {"exact_accuracy": accuracy}},
        }
        for flops, accuracy in accuracies
    ]
    assert claims_stop.rise(curve, 100) == pytest.approx(0.4)
    assert claims_stop.rise(curve[:3], 100) is None and claims_stop.rise(curve[3:], 100) is None
