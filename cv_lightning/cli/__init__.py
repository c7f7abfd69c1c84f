"""The commands that train: LightningCLI with readable errors, interrupts and checkpoints; recipes and `reproduce`."""
