"""What runs inside the engine, in its environment; nothing of the project imports it."""
