"""The annotation window and readers for napari."""
