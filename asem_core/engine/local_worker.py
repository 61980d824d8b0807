"""A worker of this machine: it ends with the run that started it from its first moment on, before anything large is loaded."""

from __future__ import annotations

from asem_core.engine.parent import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    from asem_core.engine.worker import main

    main()
