"""Measuring this machine: the step-time table that the planner reads."""
