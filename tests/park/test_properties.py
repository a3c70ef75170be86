"""Water and steam: the release's own check values, limiting cases by hand, the saturation line."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from park.properties import (
    density,
    density_slopes,
    enthalpy,
    enthalpy_slopes,
    reference_enthalpy,
    saturation_pressure,
    saturation_temperature,
)

# IAPWS R7-97(2012): table 5 (region 1), table 15 (region 2); [K], [Pa], [m3/kg], [kJ/kg], cp [kJ/(kg K)]
PUBLISHED = [
    (300.0, 3e6, 0.100215168e-2, 0.115331273e3, 0.417301218e1),
    (300.0, 80e6, 0.971180894e-3, 0.184142828e3, 0.401008987e1),
    (500.0, 3e6, 0.120241800e-2, 0.975542239e3, 0.465580682e1),
    (300.0, 0.0035e6, 0.394913866e2, 0.254991145e4, 0.191300162e1),
    (700.0, 0.0035e6, 0.923015898e2, 0.333568375e4, 0.208141274e1),
    (700.0, 30e6, 0.542946619e-2, 0.263149474e4, 0.103505092e2),
]
# Tables 35 and 36: the saturation line, both ways [K], [Pa]
BOILING = [(300.0, 0.353658941e4), (500.0, 0.263889776e7), (600.0, 0.123443146e8)]
BOILING_AT = [(0.1e6, 372.755919), (1e6, 453.035632), (10e6, 584.149488)]


@pytest.mark.parametrize(("kelvin", "pascal", "volume", "h", "cp"), PUBLISHED)
def test_published_values(kelvin, pascal, volume, h, cp):
    assert enthalpy(pascal, kelvin) == pytest.approx(h, rel=2e-9)
    assert density(pascal, kelvin) == pytest.approx(1 / volume, rel=5e-9)
    assert enthalpy_slopes(pascal, kelvin).per_kelvin == pytest.approx(cp, rel=1e-6)


@pytest.mark.parametrize(("kelvin", "pascal"), BOILING)
def test_published_saturation_pressures(kelvin, pascal):
    assert saturation_pressure(kelvin) == pytest.approx(pascal, rel=2e-9)


@pytest.mark.parametrize(("pascal", "kelvin"), BOILING_AT)
def test_published_saturation_temperatures(pascal, kelvin):
    assert saturation_temperature(pascal) == pytest.approx(kelvin, rel=2e-9)


def test_by_hand_the_reference_is_nearly_zero_at_the_triple_point_and_follows_the_steam_tables():
    assert reference_enthalpy(0.01) == pytest.approx(0.000611783, abs=1e-6)      # IF97, section 5: h'(273.16 K)
    assert reference_enthalpy(90.0) == pytest.approx(376.97, abs=0.02)           # steam tables: 377.0 kJ/kg
    assert np.isfinite(reference_enthalpy(0.0))


def test_by_hand_water_gains_its_heat_capacity_and_the_work_of_its_volume():
    warmer = enthalpy(1e5, 310.0) - enthalpy(1e5, 300.0)
    assert warmer == pytest.approx(10 * 4.18, rel=2e-3)
    pressed = enthalpy(11e5, 293.15) - enthalpy(1e5, 293.15)
    assert pressed == pytest.approx(1e6 / 998.2 * 0.94 / 1000, rel=0.01)         # v (1 - T beta), beta = 2.07e-4 / K


def test_by_hand_thin_steam_is_an_ideal_gas():
    assert density(1000.0, 600.0) == pytest.approx(1000.0 / (461.526 * 600.0), rel=1e-4)
    assert abs(enthalpy_slopes(1000.0, 600.0).per_pascal) * 1000.0 < 0.03     # of 3,100 kJ/kg


def test_a_declared_phase_decides_near_saturation():
    kelvin = 450.0
    boiling = float(saturation_pressure(kelvin))
    liquid, vapour = enthalpy(boiling, kelvin, "liquid"), enthalpy(boiling, kelvin, "vapour")
    assert vapour - liquid == pytest.approx(2025.1, abs=0.1)                      # heat of evaporation at 450 K
    for factor in (0.99, 1.01):
        assert enthalpy(boiling * factor, kelvin, "liquid") == pytest.approx(liquid, abs=0.05)
        assert enthalpy(boiling * factor, kelvin, "vapour") == pytest.approx(vapour, abs=1.5)
    assert enthalpy(boiling * 0.99, kelvin) == enthalpy(boiling * 0.99, kelvin, "vapour")
    assert enthalpy(boiling * 1.01, kelvin) == enthalpy(boiling * 1.01, kelvin, "liquid")


@pytest.mark.parametrize("phase", ["liquid", "vapour"])
def test_there_is_no_step_where_a_reading_crosses_the_line(phase):
    kelvin = np.linspace(449.9, 450.1, 401)
    boiling = float(saturation_pressure(450.0))
    steps = np.abs(np.diff(enthalpy(boiling, kelvin, phase)))
    assert steps.max() < 0.01


def test_every_state_on_the_line_has_a_value():
    kelvin = np.linspace(273.16, 620.0, 500)
    boiling = saturation_pressure(kelvin)
    for phase in (None, "liquid", "vapour", "saturated"):
        assert np.isfinite(enthalpy(boiling, kelvin, phase)).all()
        assert np.isfinite(density(boiling, kelvin, phase)).all()


def test_saturated_mixes_by_dryness():
    dry, wet, half = (enthalpy(1e6, np.nan, "saturated", x) for x in (1.0, 0.0, 0.5))
    assert dry == pytest.approx(2777.12, abs=0.01)                                # steam tables at 10 bar
    assert wet == pytest.approx(762.68, abs=0.01)
    assert half == pytest.approx((dry + wet) / 2)
    volume = 1 / density(1e6, np.nan, "saturated", 0.5)
    assert volume == pytest.approx((1 / density(1e6, np.nan, "saturated", 1.0)
                                    + 1 / density(1e6, np.nan, "saturated", 0.0)) / 2)


def test_saturated_goes_by_temperature_where_the_pressure_is_missing():
    kelvin = float(saturation_temperature(1e6))
    assert enthalpy(np.nan, kelvin, "saturated", 0.9) == pytest.approx(enthalpy(1e6, np.nan, "saturated", 0.9))
    by_temperature = enthalpy_slopes(np.nan, kelvin, "saturated", 0.9)
    by_pressure = enthalpy_slopes(1e6, kelvin, "saturated", 0.9)
    assert by_temperature.per_pascal == 0
    assert by_pressure.per_kelvin == 0
    slope_of_line = 1 / (saturation_temperature(1.0001e6) - saturation_temperature(0.9999e6)) * 200
    assert by_temperature.per_kelvin == pytest.approx(by_pressure.per_pascal * slope_of_line, rel=1e-4)
    assert by_pressure.per_dryness == pytest.approx(2014.44, abs=0.05)            # heat of evaporation at 10 bar
    assert by_pressure.per_dryness == pytest.approx(by_temperature.per_dryness)


def test_nan_in_nan_out_and_out_of_range_is_nan():
    pascal = np.array([1e5, np.nan, 1e5, -1.0, 2e8, 1e5, 1e5, np.inf])
    kelvin = np.array([300.0, 300.0, np.nan, 300.0, 300.0, 200.0, 5000.0, 300.0])
    for function in (enthalpy, density):
        for phase in (None, "liquid", "vapour"):
            values = function(pascal, kelvin, phase)
            assert values.shape == pascal.shape
            assert np.isfinite(values[0])
            assert np.isnan(values[1:]).all()
    assert np.isnan(enthalpy(-1.0, 300.0))
    assert np.isnan(enthalpy(np.nan, np.nan, "saturated"))
    slopes = enthalpy_slopes(pascal, kelvin)
    assert np.isnan(slopes.per_kelvin[1:]).all()
    assert np.isnan(slopes.per_dryness[1:]).all()


@pytest.mark.parametrize("phase", ["liquid", None])
def test_liquid_goes_on_a_little_below_freezing(phase):
    """A thermometer in a winter river reads -0.2 degC: the flow meter beside it must not fall out for that."""
    kelvin = np.array([273.15 - 3.1, 273.15 - 3.0, 273.15 - 0.2, 273.15, 300.0])
    rho, h = density(5e5, kelvin, phase), enthalpy(5e5, kelvin, phase)
    assert np.isnan([rho[0], h[0]]).all()
    assert rho[1:4] == pytest.approx(1000.0, abs=0.5)
    assert h[3] - h[2] == pytest.approx(0.2 * 4.218, rel=1e-3)       # IF97: cp of water at 0 degC
    assert enthalpy_slopes(5e5, 273.0, phase).per_kelvin == pytest.approx(4.218, rel=1e-3)
    assert np.isnan(density(500.0, 273.0, "vapour"))


def test_shapes_broadcast():
    assert enthalpy(np.full((3, 1), 1e5), np.full(4, 300.0)).shape == (3, 4)
    assert enthalpy(1e5, 300.0).shape == ()
    assert enthalpy(np.empty(0), np.empty(0)).shape == (0,)
    assert density_slopes(1e5, np.full(4, 300.0)).per_pascal.shape == (4,)


STATES = [(5e5, 350.0, "liquid"), (12e5, 500.0, "vapour"), (3e6, 300.0, None)]


@pytest.mark.parametrize(("pascal", "kelvin", "phase"), STATES)
def test_slopes_are_the_derivatives(pascal, kelvin, phase):
    for function, slopes in ((enthalpy, enthalpy_slopes), (density, density_slopes)):
        found = slopes(pascal, kelvin, phase)
        wide = (function(pascal, kelvin + 1, phase) - function(pascal, kelvin - 1, phase)) / 2
        assert found.per_kelvin == pytest.approx(wide, rel=1e-3)
        wide = (function(pascal * 1.01, kelvin, phase) - function(pascal * 0.99, kelvin, phase)) / (0.02 * pascal)
        assert found.per_pascal == pytest.approx(wide, rel=1e-3)
        assert found.per_dryness == 0


def test_slopes_at_the_edge_of_the_range_are_one_sided():
    assert enthalpy_slopes(1e5, 273.15, "liquid").per_kelvin == pytest.approx(4.2194, rel=1e-3)


def test_coolprop_is_imported_only_when_needed():
    code = "import sys, park.properties, park.load; sys.exit('CoolProp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
