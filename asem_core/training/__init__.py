"""The parts of training; `asem_core.train` puts them together."""
