"""gRPC over a stream of HTTP/2, without services and without protobuf. Source: docs/architecture.md, "gRPC".

codes         the statuses, and the fault of a client in them
wire          what the fields of requests and answers say
framing       messages in a body, and their compression
conversation  one call: reads its messages, writes its answer
"""
