"""One module a stage: read as Figure 1 of Gallusser et al. 2022."""
