"""Samplers as tables of one linear multistep update; see `table`."""

from models.samplers.compile import SAMPLERS, SCHEDULES, compile_plan, samplers_for
from models.samplers.table import MAX_PREDICTIONS, Plan, Row

__all__ = ["MAX_PREDICTIONS", "SAMPLERS", "SCHEDULES", "Plan", "Row", "compile_plan", "samplers_for"]
