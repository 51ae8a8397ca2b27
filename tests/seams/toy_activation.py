"""A cheaper activation in one file: a hard sigmoid."""

from __future__ import annotations

from edgesdk.price.forms import CheaperActivation

ROW = CheaperActivation("toy-hard", "hardsigmoid", ("hardsigmoid.default", ()))
