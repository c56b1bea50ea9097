"""Code of agents in a machine that stays between runs: functions of the host as tools, snapshots, output."""
