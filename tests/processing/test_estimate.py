"""The state of a park in a window: cases worked by hand, the laws it must keep, and its honesty against the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from park.model import Park
from park.properties import enthalpy, reference_enthalpy
from processing.equations import NONE, End
from processing.estimate import Estimator
from processing.results import Reporter
from processing.window import Readings
from simulators.scenario import Scenario
from tests.processing.parks import SCENARIO, flow, manometer, meter, thermometer, works
from tests.processing.simulated import Simulated

S = 1_000_000
BASE = {"park": {"name": "p", "timezone": "UTC", "window_s": 20},
        "participants": [{"id": "a", "name": "A"}, {"id": "b", "name": "B"}]}


def park_of(nodes, streams, meters):
    return Park.model_validate({**BASE, "nodes": nodes, "streams": streams, "meters": meters})


def node(id, *conserves, **keys):
    return {"id": id, "participant": id[0], "conserves": list(conserves), **keys}


def stream(id, start, end, carrier="water", **keys):
    return {"id": id, "from": start, "to": end, "carrier": carrier, **keys}


def constant(park: Park, values: dict[str, float], end: int = 20) -> Readings:
    """Every meter reads one value in SI, every 5 s from minus 1000 s to the end."""
    rows = [(m, t * S, values[meter.id]) for m, meter in enumerate(park.meters) if meter.id in values
            for t in range(-1000, end, 5)]
    which, time, value = zip(*rows, strict=True) if rows else ((), (), ())
    return Readings.of(len(park.meters), which, time, value)


def flows(park: Park, values: dict[str, float], taken_out: tuple[str, ...] = ()):
    """Rows of the window [0, 20) by (stream, side, quantity), and the estimate."""
    estimator = Estimator(park)
    out = np.array([m.id in taken_out for m in park.meters], dtype=np.bool_)
    estimate = estimator.estimate(constant(park, values), 0, 20 * S, out)
    rows = Reporter(estimator).rows(estimate, estimate.observation, np.zeros(len(park.meters), dtype=np.bool_))
    return {(f.stream, f.side, f.quantity): f for f in rows.flows}, estimate, rows


SPLIT = park_of(
    [node("a.n", "mass")],
    [stream("I", "environment", "a.n"), stream("O", "a.n", "environment"), stream("P", "a.n", "environment")],
    [flow("FI", "I", "receiver", 1.96, "kg/s", systematic_share=1.0),
     flow("FO", "O", "sender", 1.96, "kg/s", systematic_share=1.0),
     flow("FP", "P", "sender", 1.96, "kg/s", systematic_share=1.0)])


def test_splitter_is_reconciled_as_by_hand():
    """std are 1 % of the estimate; the adjustment is shared in proportion to their squares."""
    found, estimate, rows = flows(SPLIT, {"FI": 10.3, "FO": 6.0, "FP": 4.0})
    x = np.array([found[s, "sender", "mass_flow"].reconciled for s in "IOP"])
    first = np.array([10.3, 6.0, 4.0])
    for _ in range(2):
        v = (0.01 * first) ** 2
        first = np.array([10.3, 6.0, 4.0]) - v * [1, -1, -1] * 0.3 / v.sum()
    np.testing.assert_allclose(x, first, rtol=1e-5)
    assert x[0] - x[1] - x[2] == pytest.approx(0, abs=1e-12)
    assert rows.max_relative_imbalance < 1e-12
    assert estimate.degrees_of_freedom == 1
    assert {found[s, "sender", "mass_flow"].status for s in "IOP"} == {"redundant"}


def test_unmeasured_flow_is_computed_with_its_std():
    found, *_ = flows(SPLIT, {"FI": 10.0, "FO": 6.0})
    row = found["P", "sender", "mass_flow"]
    assert row.reconciled == pytest.approx(4.0)
    assert row.std == pytest.approx(np.hypot(0.1, 0.06), rel=0.01)     # 1 % of a share counts as random
    assert (row.status, row.measured, row.coverage) == ("observable", None, 0.0)
    assert found["I", "sender", "mass_flow"].status == "nonredundant"


def test_unobservable_flow_has_no_value():
    found, *_ = flows(SPLIT, {"FI": 10.0})
    for name in "OP":
        row = found[name, "sender", "mass_flow"]
        assert (row.status, row.reconciled, row.std) == ("unobservable", None, None)
    assert found["I", "sender", "mass_flow"].reconciled == pytest.approx(10.0)


def test_meter_taken_out_is_as_unmeasured_but_still_judged():
    found, _estimate, rows = flows(SPLIT, {"FI": 10.0, "FO": 6.0, "FP": 9.0}, taken_out=("FP",))
    assert found["P", "sender", "mass_flow"].reconciled == pytest.approx(4.0)
    judged = {m.meter: m for m in rows.meters}["FP"]
    assert judged.expected == pytest.approx(4.0)
    assert judged.test_statistic == pytest.approx(5.0 / np.sqrt(0.04**2 + 0.1**2 + 0.06**2), rel=0.01)


def test_two_equal_meters_give_no_low_mean():
    park = park_of([node("a.n", "mass")], [stream("I", "environment", "a.n")],
                   [flow("F", "I", "receiver", 10.0, "kg/s"), flow("G", "I", "receiver", 10.0, "kg/s")])
    found, *_ = flows(park, {"F": 8.0, "G": 12.0})
    assert found["I", "sender", "mass_flow"].reconciled == pytest.approx(10.0)
    assert found["I", "sender", "mass_flow"].measured == pytest.approx(10.0)


def test_meter_that_reads_zero_has_no_infinite_weight():
    found, *_ = flows(SPLIT, {"FI": 10.0, "FO": 6.0, "FP": 0.0})
    assert 0.0 < found["P", "sender", "mass_flow"].reconciled < 4.0
    assert found["I", "sender", "mass_flow"].reconciled != pytest.approx(6.0, abs=1e-3)


def test_flow_that_cannot_reverse_is_held_at_zero():
    park = park_of(
        [node("a.n", "mass")],
        [stream("I", "environment", "a.n"), stream("O", "a.n", "environment"), stream("P", "a.n", "environment")],
        [flow("FI", "I", "receiver", 1.96, "kg/s"), flow("FO", "O", "sender", 1.96, "kg/s")])
    found, _, rows = flows(park, {"FI": 10.0, "FO": 10.1})
    assert found["P", "sender", "mass_flow"].reconciled == 0.0
    assert found["P", "sender", "mass_flow"].std > 0.1
    assert found["I", "sender", "mass_flow"].reconciled == pytest.approx(10.05, rel=1e-3)
    assert rows.max_relative_imbalance < 1e-12


def test_heat_of_steam_follows_from_flow_temperature_and_pressure():
    park = park_of([node("a.n")], [stream("S", "environment", "a.n", "steam", phase="vapour")],
                   [flow("F", "S", "receiver", 1.0, "kg/s"), thermometer("T", "S", "receiver"),
                    manometer("P", "S", "receiver")])
    found, *_ = flows(park, {"F": 10.0, "T": 473.15, "P": 1.0e6})
    h = float(enthalpy(1.0e6, 473.15, "vapour")) - reference_enthalpy(0.01)
    assert found["S", "sender", "heat_flow"].reconciled == pytest.approx(10.0 * h, rel=1e-9)
    assert found["S", "sender", "heat_flow"].measured == pytest.approx(10.0 * h, rel=1e-9)
    assert found["S", "sender", "heat_flow"].best_meter == "F"


def test_volume_flow_becomes_mass_by_the_density_at_its_temperature():
    park = park_of([node("a.n")], [stream("S", "environment", "a.n")],
                   [meter("V", "S", "receiver", "volume_flow", "m3/h", u95_percent_of_reading=1.0),
                    thermometer("T", "S", "receiver"), manometer("P", "S", "receiver")])
    cold, hot = (flows(park, {"V": 0.01, "T": t, "P": 5e5})[0] for t in (293.15, 363.15))
    assert cold["S", "sender", "mass_flow"].reconciled == pytest.approx(9.984, abs=0.002)
    assert hot["S", "sender", "mass_flow"].reconciled == pytest.approx(9.655, abs=0.002)


def test_losses_on_the_way_are_between_the_two_ends():
    park = park_of([node("a.n"), node("b.n")], [stream(
        "S", "a.n", "b.n", heat_loss_kw={"value": 100, "u95": 10}, mass_loss_percent={"value": 2, "u95": 1})],
        [flow("F", "S", "sender", 1.0, "kg/s"), thermometer("T", "S", "sender"), manometer("P", "S", "sender")])
    found, *_ = flows(park, {"F": 10.0, "T": 363.15, "P": 5e5})
    sent, received = (found["S", side, "heat_flow"].reconciled for side in ("sender", "receiver"))
    assert found["S", "receiver", "mass_flow"].reconciled == pytest.approx(9.8)
    assert received == pytest.approx(0.98 * sent - 100.0)


def test_what_arrives_is_held_against_what_left_the_delay_ago():
    park = park_of([node("a.n"), node("b.n")], [stream("S", "a.n", "b.n", "material", flow_delay_s=60)],
                   [flow("F", "S", "sender", 1.0, "kg/s"), flow("G", "S", "receiver", 1.0, "kg/s")])
    estimator = Estimator(park)
    rows = [(0, t * S, 5.0 if t < -30 else 8.0) for t in range(-200, 20, 5)]
    rows += [(1, t * S, 5.0) for t in range(-200, 20, 5)]
    which, time, value = zip(*rows, strict=True)
    found = estimator.estimate(Readings.of(2, which, time, value), 0, 20 * S)
    sender, receiver = (found.values[estimator.equations.flow[0, end]] for end in (End.SENDER, End.RECEIVER))
    assert receiver == pytest.approx(5.0)
    assert sender == pytest.approx(8.0)
    assert np.nanmax(abs(found.statistic)) < 0.1
    assert found.std[estimator.equations.flow[0, End.SENDER]] < found.observation.slot_variance[0] ** 0.5


def test_pipe_delay_follows_the_flow():
    park = park_of([node("a.n"), node("b.n")], [stream("S", "a.n", "b.n", pipe_volume_m3=1.0)],
                   [flow("F", "S", "sender", 1.0, "kg/s"), thermometer("T", "S", "sender")])
    estimator = Estimator(park)
    slots = estimator.plan.shifted(np.array([10.0]), np.full(3, 1000.0))
    assert slots.shift_us.tolist() == [0, 0, 100 * S]


def test_equations_without_any_reading_have_no_answer_and_no_error():
    found, _estimate, rows = flows(SPLIT, {})
    assert all(row.reconciled is None for row in found.values())
    assert rows.meters == ()


# -- laws --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run() -> Simulated:
    sim = Simulated(works(), Scenario.model_validate(SCENARIO), seed=3)
    list(sim.windows(6))
    return sim


def last(run: Simulated) -> tuple[int, int]:
    start = round((run.start + 100) * S)
    return start, start + 20 * S


def test_permuted_park_gives_permuted_answers(run):
    park = works()
    rng = np.random.default_rng(0)
    meters = [park.meters[i] for i in rng.permutation(len(park.meters))]
    streams = tuple(park.streams[i] for i in rng.permutation(len(park.streams)))
    nodes = tuple(park.nodes[i] for i in rng.permutation(len(park.nodes)))
    mixed = park.model_copy(update={"meters": tuple(meters), "streams": streams, "nodes": nodes})
    position = {m.id: k for k, m in enumerate(meters)}
    readings = Readings.of(
        len(meters), [position[park.meters[m].id] for m in run.readings.meter], run.readings.time_us,
        run.readings.value, run.readings.quality)
    plain, other = Estimator(park), Estimator(mixed)
    a, b = plain.estimate(run.readings, *last(run)), other.estimate(readings, *last(run))
    for s, stream_ in enumerate(park.streams):
        t = [entry.id for entry in streams].index(stream_.id)
        for end in End:
            x, y = plain.equations.flow[s, end], other.equations.flow[t, end]
            assert a.values[x] == pytest.approx(b.values[y], rel=1e-8, nan_ok=True)
            assert a.std[x] == pytest.approx(b.std[y], rel=1e-6, nan_ok=True)


def test_unit_of_a_meter_changes_nothing(run):
    """A meter described in kg/s instead of t/h, with the same u95, gives the same state."""
    park = works()
    entry = park.meter["FT3"].model_dump(by_alias=True)
    other = park.meters[0].model_validate({**entry, "unit": "kg/s"})
    changed = park.model_copy(update={"meters": tuple(other if m.id == "FT3" else m for m in park.meters)})
    a, b = (Estimator(p).estimate(run.readings, *last(run)) for p in (park, changed))
    np.testing.assert_allclose(a.values, b.values, rtol=1e-9)


def test_reconciling_twice_changes_nothing():
    """Meters that read what the reconciled park says they should are not adjusted."""
    *_, rows = flows(SPLIT, {"FI": 10.3, "FO": 6.0, "FP": 4.0})
    again, estimate, _ = flows(SPLIT, {m.meter: m.expected for m in rows.meters})
    assert estimate.global_test == pytest.approx(0.0, abs=1e-12)
    assert max(abs(row.adjustment) for row in again.values() if row.adjustment is not None) < 1e-12


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-0.02, 0.02), min_size=3, max_size=3), st.floats(1.0, 100.0))
def test_splitter_closes_and_std_never_grows(errors, size):
    true = np.array([10.0, 6.0, 4.0]) * size
    read = dict(zip(("FI", "FO", "FP"), true * (1 + np.array(errors)), strict=True))
    found, estimate, rows = flows(SPLIT, read)
    assert rows.max_relative_imbalance < 1e-12
    for name, meter_ in zip("IOP", ("FI", "FO", "FP"), strict=True):
        own = np.sqrt(estimate.observation.slot_variance[[m.id for m in SPLIT.meters].index(meter_)])
        assert found[name, "sender", "mass_flow"].std <= own * (1 + 1e-9)


# -- honesty -----------------------------------------------------------------------------------------------------------


def test_predicted_std_is_what_is_realised():
    """Over many parks (seeds), errors against the truth are as large as their std say; energy and fractions too."""
    park = works()
    estimator = Estimator(park)
    equations = estimator.equations
    squares, tests = [], []
    for seed in range(16):
        sim = Simulated(park, Scenario.model_validate(SCENARIO), seed=seed)
        *_, window = sim.windows(6)
        found = estimator.estimate(sim.readings, window.start_us, window.start_us + 20 * S)
        tests.append(found.global_test / found.degrees_of_freedom)
        for s, stream_ in enumerate(park.streams):
            ends = (End.SENDER, End.RECEIVER) if stream_.two_sided else (End.SENDER,)
            for end in ends:
                f, h = equations.flow[s, end], equations.enthalpy[s, end]
                true = (window.mass_flow if stream_.carries_mass else window.heat_flow)[end, s]
                squares.append(((found.values[f] - true) / found.std[f]) ** 2)
                if h != NONE and np.isfinite(found.values[h]):
                    true_h = window.heat_flow[end, s] / true
                    squares.append(((found.values[h] - true_h) / found.std[h]) ** 2)
    assert 0.85 < np.sqrt(np.mean(squares)) < 1.15
    assert 0.8 < np.mean(tests) < 1.2


@pytest.mark.parametrize("where", ["stream", "node"])
def test_stream_that_is_not_in_force_carries_nothing_and_has_no_rows(where):
    """The window is at 1970-01-01; P begins in 2026, by itself or with the node that it goes to."""
    late = {"valid_from": "2026-01-01"}
    park = park_of(
        [node("a.n", "mass"), node("b.n", **(late if where == "node" else {}))],
        [stream("I", "environment", "a.n"), stream("O", "a.n", "environment"),
         stream("P", "a.n", "b.n", flow_delay_s=30, mass_loss_percent={"value": 2, "u95": 1},
                **(late if where == "stream" else {}))],
        [flow("FI", "I", "receiver", 1.0, "kg/s"), flow("FO", "O", "sender", 1.0, "kg/s"),
         flow("FP", "P", "sender", 1.0, "kg/s")])
    found, _, rows = flows(park, {"FI": 10.0, "FO": 10.1, "FP": 3.0})
    assert {name for name, *_ in found} == {"I", "O"}
    assert found["I", "sender", "mass_flow"].reconciled == pytest.approx(10.05, rel=1e-3)
    assert rows.max_relative_imbalance < 1e-12


def test_node_that_is_not_in_force_has_no_balance_and_no_row():
    """A tank that will be there from 2026 on: its level meter reads already, and must not hold what flows today."""
    def park(**force):
        return park_of(
            [node("a.n", "mass"), node("b.tank", "mass", **force)],
            [stream("I", "environment", "a.n"), stream("O", "a.n", "environment"), stream("P", "a.n", "b.tank")],
            [flow("FI", "I", "receiver", 1.0, "kg/s"), flow("FO", "O", "sender", 1.0, "kg/s"),
             meter("LT", None, None, "inventory", "t", node="b.tank", u95_absolute=0.01)])
    values = {"FI": 10.0, "FO": 10.1, "LT": 5000.0}
    found, estimate, rows = flows(park(valid_from="2026-01-01"), values)
    assert [row.node for row in rows.nodes] == ["a.n"]
    assert {name for name, *_ in found} == {"I", "O"}
    assert rows.max_relative_imbalance < 1e-12
    assert estimate.dormant.sum() == 1
    found, _, rows = flows(park(valid_to="2026-01-01"), values)
    assert [row.node for row in rows.nodes] == ["a.n", "b.tank"]
    assert {name for name, *_ in found} == {"I", "O", "P"}
