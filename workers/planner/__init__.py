"""The capacity planner: a discrete-event simulation of many workers, on the policies by which real ones run."""
