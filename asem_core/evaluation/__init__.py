"""The parts of evaluation: scores, and how they are shown."""
