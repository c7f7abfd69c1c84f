"""How much memory and time a config takes, before a device is rented: `plan`."""
