"""The same stories for every bot protocol and every client protocol: any client, any bot.

A new protocol adds an adapter (`adapters.py` says what it must do) and its name to the lists in `pairs.py`.
"""
