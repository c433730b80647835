"""The messages of the Remote Workers API.

The `.proto` files are ours, written from the names and numbers of the protocol. What stands in `*_pb2.py` and
`*_pb2.pyi` is made from them: `python -m tools.protos`. The names of the messages are the protocol's, because they
travel in type URLs: who has another copy of them in the same process gets an error when the second one is imported.
"""
