"""Search for better values: ranges, trials that outlive the process, table and picture."""
