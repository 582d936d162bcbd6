"""Measuring this machine: the step-time table that the planner reads, and benches of our work beside others'."""
