"""The capacity planner: a discrete-event simulation of many workers, on the scheduler and the rules that they run."""
