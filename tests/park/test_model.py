"""What a park says of its parts: ends of signed sets, owners, parties, flows and uncertainties in SI."""

from __future__ import annotations

from pathlib import Path

import pytest

from park.load import load_park
from park.model import Amount, Bounds, Exchange, Meter, MqttSource, Park, Source, Stream, Uncertain

PARKS = Path(__file__).parents[1] / "cases" / "parks"
SOURCE = Source(mqtt=MqttSource(topic="t"))


@pytest.fixture(scope="module")
def park() -> Park:
    return load_park(PARKS / "every_key" / "park.yaml")


def test_a_heat_meter_stands_where_the_supply_arrives_and_the_return_leaves(park):
    assert park.meter_ends(park.meter["b.HM1"]) == {"S30": "receiver", "S31": "sender"}
    assert park.meter_ends(park.meter["a.FT1"]) == {"S01": "sender"}
    assert park.meter_ends(park.meter["a.LT1"]) == {}


def test_the_forward_stream_of_an_exchange_says_who_sends(park):
    exchange = park.exchange["X30"]                                      # written {S31: -1, S30: 1}
    assert list(exchange.signed_streams) == ["S30", "S31"]
    assert park.parties(exchange) == ("a", "b")
    assert park.exchange_ends(exchange, "sender") == {"S30": "sender", "S31": "receiver"}
    assert park.exchange_ends(exchange, "receiver") == {"S30": "receiver", "S31": "sender"}


def test_a_share_of_a_total_has_no_parties(park):
    assert park.exchange["X07"].signed_streams == {}
    assert park.exchange["X07"].allocation.by == {"X07": 0.4, "X08": 0.6}
    assert park.exchange["X08"].allocation == park.exchange["X07"].allocation
    with pytest.raises(ValueError, match="'X07' has no stream between two participants"):
        park.parties(park.exchange["X07"])


def test_owners(park):
    assert park.owner(park.meter["a.FT1"]) == "a"                        # of the node at its side
    assert park.owner(park.meter["b.HM1"]) == "b"
    assert park.owner(park.meter["weighbridge"]) == "b"                  # as declared: it stands at the environment
    assert park.owner(park.meter["a.LT1"]) == "a"                        # of its node
    stray = park.meter["weighbridge"].model_copy(update={"participant": None})
    with pytest.raises(ValueError, match="'weighbridge' stands at the environment and names no participant"):
        park.owner(stray)


def stream(**keys) -> Stream:
    return Stream.model_validate({"id": "S", "from": "a", "to": "b", "carrier": "water"} | keys, by_alias=True)


@pytest.mark.parametrize(
    ("keys", "flow"),
    [
        ({}, None),
        ({"nominal": Amount(value=36, unit="t/h")}, 10.0),
        ({"nominal": Amount(value=36, unit="m3/h")}, 9.982),                                     # water at 20 degC
        ({"nominal": Amount(value=36, unit="m3/h"), "density_kg_m3": Uncertain(value=960)}, 9.6),
        ({"carrier": "gas", "nominal": Amount(value=3600, unit="Nm3/h")}, None),                 # no density known
        ({"carrier": "gas", "nominal": Amount(value=3600, unit="Nm3/h"), "density_kg_m3": Uncertain(value=1.2)}, 1.2),
        ({"carrier": "electricity", "nominal": Amount(value=2, unit="MW")}, 2000.0),
    ],
)
def test_nominal_flows_in_si(keys, flow):
    assert stream(**keys).nominal_si == (None if flow is None else pytest.approx(flow))


@pytest.mark.parametrize(
    ("bounds", "limits"),
    [
        (None, (0, float("inf"))),
        (Bounds(unit="t/h", max=36), (0, 10)),
        (Bounds(unit="t/h", min=None), (-float("inf"), float("inf"))),
        (Bounds(unit="t/h", min=-3.6, max=3.6), (-1, 1)),
    ],
)
def test_bounds_in_si(bounds, limits):
    assert stream(bounds=bounds).bounds_si == pytest.approx(limits)


def test_bounds_without_density_leave_zero_where_it_is():
    gas = stream(carrier="gas", bounds=Bounds(unit="Nm3/h", max=100))
    assert gas.bounds_si == (0, float("inf"))


def meter(**keys) -> Meter:
    return Meter(id="m", quantity="temperature", unit="degC", source=SOURCE, **keys)


def test_by_hand_the_terms_of_u95_add_in_quadrature():
    both = meter(u95_percent_of_reading=3, u95_percent_of_span=2, span=(0, 200), u95_absolute=12)
    assert both.u95(100.0) == pytest.approx((3**2 + 4**2 + 12**2) ** 0.5)
    assert both.u95(-100.0) == both.u95(100.0)
    assert meter(u95_absolute=0.5).u95(1e9) == 0.5


def test_u95_in_si_takes_percent_of_the_reading_in_the_meters_unit():
    celsius = meter(u95_percent_of_reading=1)
    assert celsius.u95_si(373.15) == pytest.approx(1.0)                  # 1 % of 100 degC, not of 373 K


def test_signed_streams():
    assert meter(stream="S").signed_streams == {"S": 1.0}
    assert meter(node="n").signed_streams == {}
    assert Exchange(id="X", kind="energy", settles="energy", unit="MWh", streams={"b": -1, "a": 1}).signed_streams == {
        "a": 1, "b": -1}


def test_temperature_and_pressure_are_properties_in_either_form():
    names = {q: meter().model_copy(update={"quantity": q}).property_name
             for q in ("temperature", "quality.temperature", "pressure", "quality.purity", "mass_flow")}
    assert names == {"temperature": "temperature", "quality.temperature": "temperature", "pressure": "pressure",
                     "quality.purity": "purity", "mass_flow": None}
