"""The parts of training; `asem_core.stages.train` puts them together."""
