"""Training of both stages (Rombach et al. 2022, §3): runs that resume to the step, on one machine or many GPUs."""
