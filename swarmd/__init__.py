"""swarmd: one daemon, one SQLite file, any client and any bot."""

__version__ = "0.1.0"
