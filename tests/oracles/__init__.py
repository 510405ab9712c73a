"""Answers known in closed form, or by brute force."""
