"""Core to plan: differentiate, solve implicit steps, schedule, and find the best provable form of each recurrence."""
