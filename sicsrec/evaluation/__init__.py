"""Full ranking of held-out targets, metrics with intervals, rivals and cohorts."""
