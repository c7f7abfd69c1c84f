"""Code that runs inside the engine, in the engine's environment; the project does not import it."""
