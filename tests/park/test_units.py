"""The contract's units: exactly its list, each value by hand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from park.units import (
    QUANTITIES,
    UNITS,
    Dimension,
    UnknownUnitError,
    conversion,
    dimension,
    dimensions_of_quantity,
    from_si,
    si_unit,
    similar_units,
    to_si,
    to_si_difference,
    units_of,
)

# the contract's list, section 2, as it stands there, and what one (of temperatures and pressures: 20) of each is in SI
BY_HAND = {
    "kg/s": 1.0, "kg/min": 1 / 60, "kg/h": 1 / 3600, "t/h": 1 / 3.6, "t/d": 1000 / 86400,
    "m3/s": 1.0, "m3/h": 1 / 3600, "m3/d": 1 / 86400, "l/s": 1e-3, "l/min": 1e-3 / 60, "Nm3/h": 1 / 3600,
    "W": 1e-3, "kW": 1.0, "MW": 1e3, "GJ/h": 1e6 / 3600, "kWh": 3600.0, "MWh": 3.6e6, "GJ": 1e6,
    "kg": 1.0, "t": 1000.0, "m3": 1.0, "l": 1e-3, "Nm3": 1.0,
    "Pa": 1.0, "kPa": 1e3, "bar": 1e5, "bara": 1e5,
    "1": 1.0, "%": 1e-2, "ppm": 1e-6, "mg/kg": 1e-6, "mg/l": 1e-3, "g/l": 1.0,
    "uS/cm": 1e-4, "mS/cm": 0.1, "NTU": 1.0, "pH": 1.0, "m": 1.0, "K": 1.0,
}
OFFSETS = {"degC": (1.0, 273.15), "barg": (1e5, 101325.0)}

ROOT = Path(__file__).parents[2]


def test_the_list_is_the_contracts():
    assert set(UNITS) == set(BY_HAND) | set(OFFSETS)


@pytest.mark.parametrize(("unit", "one"), BY_HAND.items())
def test_one_of_each(unit, one):
    assert to_si(1.0, unit) == pytest.approx(one, rel=1e-15)
    assert to_si(0.0, unit) == 0.0


@pytest.mark.parametrize(("unit", "line"), OFFSETS.items())
def test_units_with_another_zero(unit, line):
    scale, offset = line
    assert to_si(20.0, unit) == pytest.approx(20 * scale + offset, rel=1e-15)
    assert to_si_difference(20.0, unit) == 20 * scale


def test_scales_are_the_doubles_nearest_to_the_true_values():
    assert conversion("t/h").scale == 1000 / 3600
    assert conversion("degC").offset == 273.15
    assert conversion("ppm").scale == 1e-6


@given(st.sampled_from(UNITS), st.floats(-1e9, 1e9))
def test_there_and_back(unit, value):
    assert from_si(to_si(value, unit), unit) == pytest.approx(value, rel=1e-12, abs=1e-6)


def test_arrays_keep_nan():
    values = conversion("degC").to_si(np.array([0.0, np.nan, 100.0]))
    assert values == pytest.approx([273.15, np.nan, 373.15], nan_ok=True)
    assert conversion("degC").from_si(values) == pytest.approx([0.0, np.nan, 100.0], nan_ok=True)


@pytest.mark.parametrize("unit", ["m3/hr", "MWH", "kg /s", "", "°C", "picohenry", "h", "kg/s "])
def test_other_units_are_refused(unit):
    for function in (conversion, dimension, si_unit):
        with pytest.raises(UnknownUnitError, match=re.escape(repr(unit))):
            function(unit)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("m³/h", "m3/h"), ("°C", "degC"), ("µS/cm", "uS/cm"), ("mwh", "MWh"), ("Kg/s", "kg/s"), ("t / h", "t/h"),
     ("ph", "pH")],
)
def test_near_spellings_are_recognised(written, meant):
    assert similar_units(written) == (meant,)


def test_what_is_far_off_has_no_neighbour():
    assert similar_units("furlong/fortnight") == ()


def test_every_quantity_has_units_of_its_own():
    assert {q: set(units_of(*sorted(dimensions_of_quantity(q)))) for q in QUANTITIES} == {
        "mass_flow": {"kg/s", "kg/min", "kg/h", "t/h", "t/d"},
        "volume_flow": {"m3/s", "m3/h", "m3/d", "l/s", "l/min", "Nm3/h"},
        "heat_flow": {"W", "kW", "MW", "GJ/h"},
        "power": {"W", "kW", "MW", "GJ/h"},
        "mass_total": {"kg", "t"},
        "volume_total": {"m3", "l", "Nm3"},
        "energy_total": {"kWh", "MWh", "GJ"},
        "mass_batch": {"kg", "t"},
        "temperature": {"degC", "K"},
        "pressure": {"Pa", "kPa", "bar", "bara", "barg"},
        "inventory": {"kg", "t", "m3", "l", "Nm3", "kWh", "MWh", "GJ"},
    }


def test_properties_take_what_describes_matter():
    assert Dimension.RATIO in dimensions_of_quantity("quality.purity")
    assert Dimension.CONDUCTIVITY in dimensions_of_quantity("quality.conductivity")
    assert Dimension.MASS_FLOW not in dimensions_of_quantity("quality.purity")
    assert dimensions_of_quantity("quality.temperature") == {Dimension.TEMPERATURE}
    assert dimensions_of_quantity("quality.pressure") == {Dimension.PRESSURE}


@pytest.mark.parametrize("quantity", ["quality.", "quality", "purity", "flow", ""])
def test_unknown_quantities_have_no_units(quantity):
    assert dimensions_of_quantity(quantity) == frozenset()


def test_every_unit_says_what_it_is_in_si():
    assert {unit: si_unit(unit) for unit in ("GJ/h", "barg", "%", "mg/l", "uS/cm", "Nm3", "degC", "MWh")} == {
        "GJ/h": "kW", "barg": "Pa", "%": "1", "mg/l": "kg/m3", "uS/cm": "S/m", "Nm3": "Nm3", "degC": "K", "MWh": "kJ"}
