"""The published cases as arrays; sources are in the files and in README.md beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def linear_networks():
    """Problems of Valle et al. 2018 by name, arrays as numpy."""
    problems = json.loads((HERE / "linear_networks.json").read_text())["problems"]
    return {
        name: {key: np.array(value) if isinstance(value, list) else value for key, value in problem.items()}
        for name, problem in problems.items()
    }


def vdi2048():
    """The heat circuit of VDI 2048 with its covariance; constraints as a matrix."""
    case = json.loads((HERE / "vdi2048.json").read_text())
    at = {name: j for j, name in enumerate(case["names"])}
    matrix = np.array([_balance(text, at) for text in case["constraints"]])
    std = np.array(case["u95"]) / 1.96
    covariance = np.diag(std**2)
    for one, other, correlation in case["correlations"]:
        covariance[at[one], at[other]] = covariance[at[other], at[one]] = correlation * std[at[one]] * std[at[other]]
    return case | {"incidence": matrix, "covariance": covariance}


def _balance(text, at):
    """Coefficients of an equation such as "a + b - 0.2 c = d"."""
    row = np.zeros(len(at))
    for side, half in zip((1.0, -1.0), text.split("="), strict=True):
        sign, factor = side, 1.0
        for word in half.split():
            if word in "+-":
                sign, factor = side * (1.0 if word == "+" else -1.0), 1.0
            elif word in at:
                row[at[word]] += sign * factor
            else:
                factor = float(word)
    return row


class Swartz:
    """Swartz 1989: variables are 15 flows, then 15 temperatures."""

    def __init__(self):
        case = json.loads((HERE / "swartz1989.json").read_text())
        self.case, self.order = case, case["order"]
        self.n = len(self.order)
        self.flow = {name: j for j, name in enumerate(self.order)}
        self.heat = np.array([case["enthalpy"][name[0]] for name in self.order])
        self.mass = self._rows("A1-A2 A2-A3-A6 A3-A4 A4-A5 A6-A7 A5+A7-A8 B1-B2 B2-B3 C1-C2 D1-D2")
        self.energy = self._rows("A1-A2+B2-B3 A3-A4+B1-B2 A4-A5+C1-C2 A5+A7-A8 A6-A7+D1-D2")
        self.equal = self._rows("A2-A3 A3-A6")
        self.measured = np.full(2 * self.n, np.nan)
        self.std = np.full(2 * self.n, np.inf)
        for name, value in case["measured_flow"].items():
            self.measured[self.flow[name]], self.std[self.flow[name]] = value, 0.02 * value
        for name, value in case["measured_temperature"].items():
            self.measured[self.n + self.flow[name]], self.std[self.n + self.flow[name]] = value, 0.75
        guess = np.r_[np.full(self.n, 500.0), np.full(self.n, 550.0)]
        self.start = np.where(np.isnan(self.measured), guess, self.measured)
        self.reconciled = np.r_[case["reconciled_flow"], case["reconciled_temperature"]]

    def _rows(self, text):
        """Rows of signs from "A1-A2+B2 A3-A4"."""
        rows = np.zeros((len(text.split()), self.n))
        for i, word in enumerate(text.split()):
            for part in word.replace("-", " -").replace("+", " +").split():
                rows[i, self.flow[part.lstrip("+-")]] = -1.0 if part[0] == "-" else 1.0
        return rows

    def constraints(self, x):
        flow, temperature = x[: self.n], x[self.n :]
        enthalpy = self.heat[:, 0] + self.heat[:, 1] * temperature + self.heat[:, 2] * temperature**2
        return np.r_[self.mass @ flow, self.energy @ (flow * enthalpy), self.equal @ temperature]

    def jacobian(self, x):
        flow, temperature = x[: self.n], x[self.n :]
        enthalpy = self.heat[:, 0] + self.heat[:, 1] * temperature + self.heat[:, 2] * temperature**2
        slope = self.heat[:, 1] + 2 * self.heat[:, 2] * temperature
        return np.block(
            [
                [self.mass, np.zeros_like(self.mass)],
                [self.energy * enthalpy, self.energy * flow * slope],
                [np.zeros_like(self.equal), self.equal],
            ]
        )
