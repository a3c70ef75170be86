"""The contract's units as OPC UA names them: the common codes of UNECE Recommendation 20.

Here: the table and the `EUInformation` made of it. The conversion to SI is in `park.units`. A unit without a code
of its own (gauge pressure, GJ/h) is told by its name alone, with the UnitId -1 that OPC UA Part 8, 5.6.3 asks for.
"""

from __future__ import annotations

from collections.abc import Mapping

from asyncua import ua

NAMESPACE = "http://www.opcfoundation.org/UA/units/un/cefact"     # OPC UA Part 8, 5.6.3
NO_CODE = -1

COMMON_CODE: Mapping[str, str] = {
    "kg/s": "KGS", "kg/min": "F31", "kg/h": "E93", "t/h": "E18", "t/d": "L71",
    "m3/s": "MQS", "m3/h": "MQH", "m3/d": "G52", "l/s": "G51", "l/min": "L2", "Nm3/h": "Q40",
    "W": "WTT", "kW": "KWT", "MW": "MAW",
    "kWh": "KWH", "MWh": "MWH", "GJ": "GV",
    "kg": "KGM", "t": "TNE", "m3": "MTQ", "l": "LTR", "Nm3": "NM3",
    "degC": "CEL", "K": "KEL", "Pa": "PAL", "kPa": "KPA", "bar": "BAR", "bara": "BAR",
    "1": "C62", "%": "P1", "ppm": "59", "mg/kg": "NA", "mg/l": "M1", "g/l": "GL",
    "uS/cm": "G42", "mS/cm": "H61", "NTU": "NTU", "pH": "Q30", "m": "MTR",
}


def unit_id(unit: str) -> int:
    """Return the UnitId: the characters of the common code as the bytes of a number; -1 where there is none."""
    code = COMMON_CODE.get(unit)
    return NO_CODE if code is None else int.from_bytes(code.encode("ascii"), "big")


def engineering_units(unit: str) -> ua.EUInformation:
    """Return what an OPC UA client is told about a unit of the contract."""
    return ua.EUInformation(
        NamespaceUri=NAMESPACE,
        UnitId=ua.Int32(unit_id(unit)),
        DisplayName=ua.LocalizedText(unit),
        Description=ua.LocalizedText(unit),
    )
