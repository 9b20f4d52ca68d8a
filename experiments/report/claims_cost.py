"""Claims about cost: the paper's Fig. 6, and the latency and memory that it never measured."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.report.cost import overtaken
from experiments.report.sources import BENCH, COST, Source
from experiments.report.verdicts import Claim, Finding, Verdict, not_run

_SESSIONS = {"evict": "hard eviction", "slide": "sliding window"}
# N times the throughput of N = 1 over that of N is 1 if throughput goes as 1/N.
_ROUGHLY = 1.5
# Waking with N passes would take twice as long at N = 2 already.
_FLAT = 1.25


def _scale(source: Source) -> str:
    config = source.results.get("config", {})
    model = (config.get("run") or config).get("model", {})
    return f"{len(model['pattern'])} blocks, d = {model['d_model']}" if model else "model unknown"


def throughput(source: Source) -> Finding:
    """N times the tokens per second, over those of N = 1, between 1/1.5 and 1.5 at every N."""
    rows = {row["passes"]: row for row in source.results["training"]}
    if 1 not in rows or len(rows) == 1:
        return not_run("training steps at N = 1 and N > 1")
    held, said = True, []
    for passes, row in sorted(rows.items()):
        low, high = _times(passes, rows[1], row)
        held &= 1 / _ROUGHLY <= low and high <= _ROUGHLY
        rate = row["tokens_per_second"] / rows[1]["tokens_per_second"]
        said.append(f"N = {passes}: {rate:.3f} of N = 1, times N {_range(low, high)}")
    verdict = Verdict.SAME_DIRECTION if held else Verdict.NOT_REPRODUCED
    return Finding(verdict, "; ".join(said), _scale(source))


def _times(passes: int, one: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[float, float]:
    """N x rate(N) / rate(1): over the quartiles of both where they were recorded."""
    if passes == 1:
        return 1.0, 1.0
    if "lower_quartile" in one and "lower_quartile" in row:
        return (
            passes * one["lower_quartile"] / row["upper_quartile"],
            passes * one["upper_quartile"] / row["lower_quartile"],
        )
    rate = passes * row["tokens_per_second"] / one["tokens_per_second"]
    return rate, rate


def _range(low: float, high: float) -> str:
    return f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f} by quartiles"


def _flat(rows: Sequence[Mapping[str, Any]]) -> tuple[bool, str]:
    slow = max(rows, key=lambda row: row["seconds"])
    fast = min(rows, key=lambda row: row["seconds"])
    most = slow["upper_quartile"] / fast["lower_quartile"]
    return most <= _FLAT, (
        f"medians {1e3 * fast['seconds']:.2f} to {1e3 * slow['seconds']:.2f} ms, at most a factor "
        f"of {most:.2f} by quartiles"
    )


def flat(table: str) -> Callable[[Source], Finding]:
    """The wake latency in one of the tables does not depend on its variable, in both sessions."""

    def judge(source: Source) -> Finding:
        held, said = True, []
        for model, name in _SESSIONS.items():
            rows = [row for row in source.results[table] if row["model"] == model]
            if len(rows) < 2:
                return not_run(f"two measurements of {name}")
            good, words = _flat(rows)
            held &= good
            said.append(f"{name}: {words}")
        verdict = Verdict.SHOWN if held else Verdict.NOT_SHOWN
        return Finding(verdict, "; ".join(said), _scale(source))

    return judge


def constant_memory(source: Source) -> Finding:
    """The bytes of a session are the same at every context length."""
    held, said = True, []
    for model, name in _SESSIONS.items():
        rows = [row for row in source.results["awake_by_context"] if row["model"] == model]
        if len(rows) < 2:
            return not_run(f"two context lengths of {name}")
        found = sorted({row["state_bytes"] for row in rows})
        held &= len(found) == 1
        spans = f"{min(r['context'] for r in rows):,} to {max(r['context'] for r in rows):,}"
        said.append(f"{name}: {' or '.join(f'{n:,}' for n in found)} bytes at {spans} tokens")
    verdict = Verdict.SHOWN if held else Verdict.NOT_SHOWN
    return Finding(verdict, "; ".join(said), _scale(source))


def overtakes(source: Source) -> Finding:
    """At the longest context a token costs the session less than the growing cache."""
    table = source.results["awake_by_context"]
    longest = max(row["context"] for row in table)
    at = {row["model"]: row for row in table if row["context"] == longest}
    absent = {*_SESSIONS, "transformer"} - set(at)
    if absent:
        return not_run(f"{', '.join(sorted(absent))} at {longest:,} tokens")
    held, said = True, []
    for model, name in _SESSIONS.items():
        held &= at[model]["upper_quartile"] < at["transformer"]["lower_quartile"]
        last, following = overtaken(dict(source.results), model)
        start = f"from {following:,} tokens on" if following else "at no measured length"
        said.append(
            f"{name}: {1e3 * at[model]['seconds']:.2f} ms against "
            f"{1e3 * at['transformer']['seconds']:.2f} ms at {longest:,} tokens; faster {start}"
            + (f", not yet at {last:,}" if last and following else "")
        )
    verdict = Verdict.SHOWN if held else Verdict.NOT_SHOWN
    return Finding(verdict, "; ".join(said), _scale(source))


def _never(source: Source) -> Finding:
    return not_run("training at several windows L for one sequence length")


_MISSING = "EXP=cost_of_sleep"
_OURS = "ours; the paper reports no latency"
CLAIMS = (
    Claim(
        "cost-throughput",
        "training cost, Fig. 6",
        "Training throughput is roughly proportional to 1/N.",
        f"N times the throughput relative to N = 1 lies within a factor of {_ROUGHLY} of 1 at "
        "every N, quartiles included where they were recorded. Another model on another device can "
        "show the direction at most.",
        (COST, BENCH),
        throughput,
        _MISSING,
    ),
    Claim(
        "cost-windows",
        "training cost, Fig. 6",
        "Cutting the sequence into windows costs little once a window fills the device.",
        "Nothing here measures it yet.",
        (COST,),
        _never,
        "training at several windows L for one sequence length",
    ),
)
OUR_CLAIMS = (
    Claim(
        "cost-flat-passes",
        _OURS,
        "A token awake costs the same whatever N is.",
        f"Slowest upper quartile over fastest lower quartile at most {_FLAT}, in both sessions.",
        (COST,),
        flat("awake_by_passes"),
        _MISSING,
    ),
    Claim(
        "cost-flat-context",
        _OURS,
        "A token awake costs the same however much was read.",
        f"Slowest upper quartile over fastest lower quartile at most {_FLAT}, in both sessions.",
        (COST,),
        flat("awake_by_context"),
        _MISSING,
    ),
    Claim(
        "cost-memory",
        _OURS,
        "A session holds the same bytes however much was read.",
        "The bytes counted at every length are equal, in both sessions.",
        (COST,),
        constant_memory,
        _MISSING,
    ),
    Claim(
        "cost-overtakes",
        _OURS,
        "At the longest context measured, a token awake is faster than with a growing cache.",
        "The session's upper quartile is below the transformer's lower one, in both sessions.",
        (COST,),
        overtakes,
        _MISSING,
    ),
)
