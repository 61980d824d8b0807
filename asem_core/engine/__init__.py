"""What runs blocks: workers, interrupts, progress, the machine."""
