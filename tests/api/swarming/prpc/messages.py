"""Any message of a type, drawn from its descriptor."""

from __future__ import annotations

from math import inf

from google.protobuf import any_pb2, message_factory, timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

from swarmd.api.swarming.proto import bots_pb2, common_pb2, discovery_pb2, prpc_pb2, server_pb2, tasks_pb2

OWN_FILES = (common_pb2, tasks_pb2, bots_pb2, server_pb2, prpc_pb2)
F = FieldDescriptor
SCALARS = {
    F.TYPE_STRING: st.text(max_size=20),
    F.TYPE_BYTES: st.binary(max_size=40),
    F.TYPE_BOOL: st.booleans(),
    F.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    F.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    # The library writes the very largest float so that it refuses to read it. Infinity is another word.
    F.TYPE_FLOAT: st.floats(-(2.0**127), 2.0**127, width=32) | st.sampled_from([inf, -inf]),
}
TIMESTAMPS = st.builds(
    timestamp_pb2.Timestamp,
    seconds=st.integers(-62_135_596_800, 253_402_300_799),  # years 1 to 9999: JSON knows no others
    nanos=st.integers(0, 999_999_999) | st.sampled_from([0, 1_000, 500_000_000]),
)


def all_types() -> list[type]:
    """Every message type of the client API and of pRPC, nested ones too."""
    found = [discovery_pb2.Void]

    def visit(descriptor: Descriptor) -> None:
        found.append(message_factory.GetMessageClass(descriptor))
        for nested in descriptor.nested_types:
            visit(nested)

    for module in OWN_FILES:
        for descriptor in module.DESCRIPTOR.message_types_by_name.values():
            visit(descriptor)
    return found


@st.composite
def messages(draw, type):
    return draw(_of(type.DESCRIPTOR))


def _of(descriptor: Descriptor):
    if descriptor.full_name == "google.protobuf.Timestamp":
        return TIMESTAMPS
    if descriptor.full_name == "google.protobuf.Any":
        return _of(common_pb2.StringPair.DESCRIPTOR).map(_packed)
    return _filled(descriptor)


def _packed(message):
    any = any_pb2.Any()
    any.Pack(message)
    return any


@st.composite
def _filled(draw, descriptor: Descriptor):
    message = message_factory.GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if not draw(st.booleans()):
            continue
        value = _value(field)
        if field.is_repeated:
            values = draw(st.lists(value, max_size=3))
            getattr(message, field.name).extend(values)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(draw(value))
        else:
            setattr(message, field.name, draw(value))
    return message


def _value(field: FieldDescriptor):
    if field.message_type is not None:
        return _of(field.message_type)
    if field.enum_type is not None:
        known = [value.number for value in field.enum_type.values]
        return st.sampled_from(known) | st.integers(-(2**31), 2**31 - 1)  # a newer client may know more
    return SCALARS[field.type]
