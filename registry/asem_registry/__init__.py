"""Pretrained models by name."""
