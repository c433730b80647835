"""pRPC: calls of protobuf services as plain HTTP requests. Source: docs/swarming-clients.md, "pRPC".

negotiation  which encoding, how long, how large: what the headers say
bodies       gzip in both directions
codec        messages to bytes and back; the one module that needs protobuf
errors       codes, statuses, and errors on the wire
layer        a method's handler as a handler of the edge
"""
