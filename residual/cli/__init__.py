"""The commands: one module each, one list of them in main.py."""
