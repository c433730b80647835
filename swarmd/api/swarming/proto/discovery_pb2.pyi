from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Void(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("description", "services")
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    description: _descriptor_pb2.FileDescriptorSet
    services: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, description: _Optional[_Union[_descriptor_pb2.FileDescriptorSet, _Mapping]] = ..., services: _Optional[_Iterable[str]] = ...) -> None: ...
