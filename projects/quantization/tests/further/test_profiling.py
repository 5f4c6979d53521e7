"""The judge of the profiling tools.

Oracles: counts worked by hand, torch.utils.flop_counter, and a bottleneck that was planted. No time is asserted.
"""

import itertools
import json
import math
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import profiling
from shared.testing.checks import assert_close, expect_error


@pytest.fixture(autouse=True)
def seeded():
    """Give every layer the same weights in every run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.grades("linear_cost")
def test_linear_cost_by_hand():
    """(2, 3) times (3, 5): 60 FLOPs; 6 + 10 floats of rows, 15 of weights, 5 of bias."""
    assert profiling.linear_cost(2, 3, 5) == (60, 144), (
        f"got {profiling.linear_cost(2, 3, 5)}: 2 FLOPs per product"
    )
    assert profiling.linear_cost(2, 3, 5, bytes_per_weight=1) == (60, 99), "bytes_per_weight is ignored"
    assert profiling.linear_cost(0, 3, 5)[0] == 0
    with expect_error(ValueError, "-1", otherwise="a negative size is accepted"):
        profiling.linear_cost(-1, 3, 5)


@pytest.mark.grades("linear_cost", "profile_operators")
def test_flops_are_the_formula(generator):
    """The profiler, torch's flop counter and the formula agree."""
    layer, x = torch.nn.Linear(37, 53), torch.randn(11, 37, generator=generator)
    flops, n_bytes = profiling.linear_cost(11, 37, 53)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == flops, "linear_cost is not 2·batch·in·out"
    with torch.no_grad():
        rows = profiling.profile_operators(lambda: layer(x), n_calls=3)
    product = next(row for row in rows if row.name == "aten::addmm")
    assert product.flops == 3 * flops, f"{product.flops} FLOPs in 3 calls, expected {3 * flops}"
    assert product.n_calls == 3, f"{product.n_calls} calls, expected 3: is the warm-up profiled?"
    assert product.n_bytes == 3 * (n_bytes - 4 * 53), f"{product.n_bytes} bytes in 3 calls (without the bias)"


@pytest.mark.grades("profile_operators")
def test_shares(generator):
    """Shares add up to 1, the most time first; five calls, or as many as are asked for."""
    a, b = torch.randn(64, 64, generator=generator), torch.randn(64, 64, generator=generator)
    rows = profiling.profile_operators(lambda: (a @ b).relu())
    assert abs(sum(row.share for row in rows) - 1) < 1e-6, (
        "the shares do not add up to 1: is time counted twice?"
    )
    times = [row.self_ms for row in rows]
    assert times == sorted(times, reverse=True), "the operators are not sorted by time"
    assert {"aten::mm", "aten::relu"} <= {row.name for row in rows}, "an operator is missing"
    for options, expected in (({}, 5), ({"n_calls": 1}, 1)):
        found = {row.name: row for row in profiling.profile_operators(lambda: a @ b, **options)}
        got = found["aten::mm"].n_calls
        assert got == expected, f"{got} calls with {options}, expected {expected}"
    with expect_error(ValueError, "0", otherwise="n_calls=0 is accepted"):
        profiling.profile_operators(lambda: None, n_calls=0)


@pytest.mark.grades("profile_operators")
def test_times_are_those_of_the_trace(generator, tmp_path):
    """An operator's own time is that of the same run's trace, over all shapes and calls, less what it calls.

    A product calls aten::resolve_conj: 0.1 µs each, and as long as it likes if the scheduler takes over there.
    """
    large, small = (torch.randn(n, n, generator=generator) for n in (200, 60))
    trace = tmp_path / "trace.json"
    rows = profiling.profile_operators(lambda: (large @ large, small @ small), n_calls=2, trace=trace)
    product = next(row for row in rows if row.name == "aten::mm")
    events = json.loads(trace.read_text())["traceEvents"]
    spans = [(event["ts"], event["dur"], event["name"]) for event in events if event.get("cat") == "cpu_op"]
    products = [(start, length) for start, length, name in spans if name == "aten::mm"]
    assert len(products) == product.n_calls == 4, f"two products in two calls, got {product.n_calls}"
    microseconds = sum(length for _, length in products)
    for first, whole in products:
        microseconds -= sum(length for start, length, _ in spans if first < start < first + whole)
    assert_close(product.self_ms, microseconds / 1e3, rtol=1e-5, what="self_ms of both shapes together")


@pytest.mark.grades("verdict")
def test_verdict():
    """At the ridge compute-bound, left of it memory-bound."""
    machine = {"peak_flops": 100.0, "bandwidth": 10.0}  # ridge at 10 FLOPs per byte
    cases = {
        (99, 10): "memory-bound",
        (101, 10): "compute-bound",
        (5, 1): "memory-bound",
        (1000, 2): "compute-bound",
    }
    for (flops, n_bytes), expected in cases.items():
        got = profiling.verdict(flops, n_bytes, **machine)
        assert got == expected, f"{flops} FLOPs on {n_bytes} bytes with ridge 10 is {expected}, got {got}"
    for zero in ("n_bytes", "peak_flops", "bandwidth"):
        arguments = {"n_bytes": 1.0, **machine, zero: 0.0}
        with expect_error(ValueError, otherwise=f"{zero}=0 is accepted"):
            profiling.verdict(1, **arguments)


@pytest.mark.grades("measure_peaks")
def test_peaks_are_plausible():
    """Between a slow and an impossible machine: finds wrong units, asserts no speed."""
    peak, bandwidth = profiling.measure_peaks(size=192, megabytes=8, rounds=2)
    assert 1e8 < peak < 1e15, f"{peak:.2g} FLOP/s: is the unit FLOP per second?"
    assert 1e8 < bandwidth < 1e13, f"{bandwidth:.2g} bytes/s: is the unit bytes per second?"


@pytest.mark.grades("measure_peaks")
def test_peaks_by_hand(monkeypatch):
    """On a clock that says 2 s for every round, 1 s for the fastest, and less for the one that warms up."""

    def ticks(now=100.0):
        for seconds in itertools.cycle([0.5, 2.0, 2.0, 1.0, 2.0]):
            yield now
            now += seconds
            yield now

    clock = ticks()
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    peak, bandwidth = profiling.measure_peaks(size=12, megabytes=3, rounds=4)
    assert peak == 2 * 12**3, f"a product of 12 by 12 in 1 s is 3456 FLOP/s, got {peak}"
    assert bandwidth == 2 * 3 * 2**20, f"a copy of 3 MiB in 1 s moves twice as much, got {bandwidth}"


@pytest.mark.grades("table")
def test_table_by_hand():
    """Ridge 10: one operator below it, one above, one without FLOPs; the fourth row is not asked for."""
    row = profiling.OperatorProfile
    rows = [
        row("aten::mm", 3, 4.0, 0.5, 20 * 10**18, 4 * 10**18),  # 5 FLOPs per byte: half of what it could
        row("aten::addmm", 2, 2.0, 0.25, 10 * 10**18, 5 * 10**17),  # 20 FLOPs per byte: a quarter
        row("aten::relu", 1, 1.0, 0.12, 0, 0),
        row("aten::add", 1, 1.0, 0.13, 0, 0),
    ]
    text = profiling.table(rows, peak_flops=2e22, bandwidth=2e21, n_rows=3)
    head, line, *got = [[cell.strip() for cell in text.split("|")[1:-1]] for text in text.splitlines()]
    assert head == ["operator", "calls", "self ms", "share", "GFLOP", "MB", "of peak", "bound"], head
    assert len(line) == 8, f"eight columns, got {line}"
    assert all(set(cell) == {"-"} for cell in line), f"Markdown wants dashes, got {line}"
    names, numbers, bounds = ([cells[part] for cells in got] for part in (0, slice(1, 6), slice(6, 8)))
    assert names == ["aten::mm", "aten::addmm", "aten::relu"], f"the first three operators, got {names}"
    assert bounds == [["50%", "memory-bound"], ["25%", "compute-bound"], ["?", "?"]], f"got {bounds}"
    values = [[float(number.rstrip("%")) for number in row] for row in numbers]
    wanted = [[3, 4, 50, 2e10, 4e12], [2, 2, 25, 1e10, 5e11], [1, 1, 12, 0, 0]]
    for name, value, expected in zip(names, values, wanted, strict=True):
        assert value == expected, f"{name}: calls, self ms, %, GFLOP and MB are {value}, expected {expected}"


@pytest.mark.grades("Bottlenecked")
def test_bottlenecked_by_hand(generator):
    """Fixed or not, the same sums over the rows."""
    slow = profiling.Bottlenecked(6)
    fast = profiling.Bottlenecked(6, fixed=True)
    fast.load_state_dict(slow.state_dict())
    x = torch.randn(5, 6, generator=generator)
    expected = torch.relu(slow.body(x)).detach().double().numpy().cumsum(0)
    expected = torch.from_numpy(expected) @ slow.head.weight.double().T + slow.head.bias.double()
    for network in (slow, fast):
        assert_close(network(x), expected, dtype="float32", n=30, what="running sums over the rows")


@pytest.mark.grades("profile_operators", "Bottlenecked", "table")
def test_planted_bottleneck_is_found(generator, tmp_path):
    """The loop shows up as one small addition per row; fixed, as a single running sum. The trace is readable."""
    x = torch.randn(40, 16, generator=generator)
    slow, fast = profiling.Bottlenecked(16), profiling.Bottlenecked(16, fixed=True)
    trace = tmp_path / "trace.json"
    with torch.no_grad():
        found = {
            row.name: row for row in profiling.profile_operators(lambda: slow(x), n_calls=2, trace=trace)
        }
        fixed = {row.name: row for row in profiling.profile_operators(lambda: fast(x), n_calls=2)}
    assert found["aten::add"].n_calls == 80, "40 rows in 2 calls make 80 additions"
    assert "aten::add" not in fixed, "the fixed network still adds row by row"
    assert fixed["aten::cumsum"].n_calls == 2, "the fixed network sums once per call"
    events = json.loads(trace.read_text())["traceEvents"]
    assert any(event.get("name") == "aten::add" for event in events), "the Chrome trace lacks the operators"
    text = profiling.table(list(found.values()), peak_flops=1e11, bandwidth=1e10, n_rows=30)
    assert "aten::addmm" in text, "the table lacks the product"
    lines = [line for line in text.splitlines() if "aten::addmm" in line]
    assert "memory-bound" in lines[0], f"16 wide and 10 FLOPs per byte is memory-bound: {lines[0]}"
    assert (
        len(profiling.table(list(found.values()), peak_flops=1.0, bandwidth=1.0, n_rows=2).splitlines()) == 4
    )


@pytest.mark.grades("verdict", "measure_peaks")
def test_numbers_that_are_none():
    """NaN is not compute-bound, and no round has no best time."""
    for flops in (math.nan, -1.0):
        with expect_error(ValueError, str(flops), otherwise=f"flops={flops} has a verdict"):
            profiling.verdict(flops, 1.0, peak_flops=1.0, bandwidth=1.0)
    assert profiling.verdict(0.0, 1.0, peak_flops=1.0, bandwidth=1.0) == "memory-bound"
    for name in ("size", "megabytes", "rounds"):
        with expect_error(ValueError, name, otherwise=f"{name}=0 is measured"):
            profiling.measure_peaks(**{"size": 2, "megabytes": 1, "rounds": 1, name: 0})
