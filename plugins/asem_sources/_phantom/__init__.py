"""How phantom cells are made: shapes, a scene of them, and how a microscope sees it."""
