"""Policies that think about images by writing code: samples, conversations, rollouts, rewards, data, commands."""
