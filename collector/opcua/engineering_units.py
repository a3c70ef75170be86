"""The contract's unit of an OPC UA UnitId: the common codes of UNECE Recommendation 20 (OPC 10000-8, 5.6.3)."""

from __future__ import annotations

from collections.abc import Mapping

# bar and barg have one code; by itself it means the absolute one.
_UNIT_OF_CODE: Mapping[str, str] = {
    "KGS": "kg/s", "F31": "kg/min", "E93": "kg/h", "E18": "t/h", "L71": "t/d",
    "MQS": "m3/s", "MQH": "m3/h", "G52": "m3/d", "G51": "l/s", "L2": "l/min", "Q40": "Nm3/h",
    "WTT": "W", "KWT": "kW", "MAW": "MW", "KWH": "kWh", "MWH": "MWh", "GV": "GJ",
    "KGM": "kg", "TNE": "t", "MTQ": "m3", "LTR": "l", "NM3": "Nm3",
    "CEL": "degC", "KEL": "K", "PAL": "Pa", "KPA": "kPa", "BAR": "bar",
    "C62": "1", "P1": "%", "59": "ppm", "NA": "mg/kg", "M1": "mg/l", "GL": "g/l",
    "G42": "uS/cm", "H61": "mS/cm", "NTU": "NTU", "Q30": "pH", "MTR": "m",
}


def unit_of_code(unit_id: int) -> str:
    """Return the unit of a UnitId, whose bytes are the characters of the code; empty if it is none of ours."""
    if unit_id <= 0:
        return ""
    code = unit_id.to_bytes((unit_id.bit_length() + 7) // 8, "big").decode("latin-1")
    return _UNIT_OF_CODE.get(code, "")
