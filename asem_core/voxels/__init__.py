"""Algorithms on blocks of voxels that plugins share."""
