"""The messages of LUCI Swarming's client API, and what pRPC needs beside them.

The `.proto` files are ours, written from the names and numbers of the protocol. What stands in `*_pb2.py` and
`*_pb2.pyi` is made from them: `python -m tools.protos`.
"""
