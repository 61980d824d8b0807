"""The parts of prediction; `asem_core.stages.predict` puts them together."""
