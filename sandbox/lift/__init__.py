"""Reads a snippet as a `ToolProgram`, or says why it cannot be read. Nothing is ever evaluated."""
