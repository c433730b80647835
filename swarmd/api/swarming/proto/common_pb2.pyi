from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class TaskState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INVALID: _ClassVar[TaskState]
    RUNNING: _ClassVar[TaskState]
    PENDING: _ClassVar[TaskState]
    EXPIRED: _ClassVar[TaskState]
    TIMED_OUT: _ClassVar[TaskState]
    BOT_DIED: _ClassVar[TaskState]
    CANCELED: _ClassVar[TaskState]
    COMPLETED: _ClassVar[TaskState]
    KILLED: _ClassVar[TaskState]
    NO_RESOURCE: _ClassVar[TaskState]
    CLIENT_ERROR: _ClassVar[TaskState]

class StateQuery(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUERY_PENDING: _ClassVar[StateQuery]
    QUERY_RUNNING: _ClassVar[StateQuery]
    QUERY_PENDING_RUNNING: _ClassVar[StateQuery]
    QUERY_COMPLETED: _ClassVar[StateQuery]
    QUERY_COMPLETED_SUCCESS: _ClassVar[StateQuery]
    QUERY_COMPLETED_FAILURE: _ClassVar[StateQuery]
    QUERY_EXPIRED: _ClassVar[StateQuery]
    QUERY_TIMED_OUT: _ClassVar[StateQuery]
    QUERY_BOT_DIED: _ClassVar[StateQuery]
    QUERY_CANCELED: _ClassVar[StateQuery]
    QUERY_ALL: _ClassVar[StateQuery]
    QUERY_DEDUPED: _ClassVar[StateQuery]
    QUERY_KILLED: _ClassVar[StateQuery]
    QUERY_NO_RESOURCE: _ClassVar[StateQuery]
    QUERY_CLIENT_ERROR: _ClassVar[StateQuery]

class SortQuery(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUERY_CREATED_TS: _ClassVar[SortQuery]
    QUERY_COMPLETED_TS: _ClassVar[SortQuery]
    QUERY_ABANDONED_TS: _ClassVar[SortQuery]
    QUERY_STARTED_TS: _ClassVar[SortQuery]

class NullableBool(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NULL: _ClassVar[NullableBool]
    FALSE: _ClassVar[NullableBool]
    TRUE: _ClassVar[NullableBool]
INVALID: TaskState
RUNNING: TaskState
PENDING: TaskState
EXPIRED: TaskState
TIMED_OUT: TaskState
BOT_DIED: TaskState
CANCELED: TaskState
COMPLETED: TaskState
KILLED: TaskState
NO_RESOURCE: TaskState
CLIENT_ERROR: TaskState
QUERY_PENDING: StateQuery
QUERY_RUNNING: StateQuery
QUERY_PENDING_RUNNING: StateQuery
QUERY_COMPLETED: StateQuery
QUERY_COMPLETED_SUCCESS: StateQuery
QUERY_COMPLETED_FAILURE: StateQuery
QUERY_EXPIRED: StateQuery
QUERY_TIMED_OUT: StateQuery
QUERY_BOT_DIED: StateQuery
QUERY_CANCELED: StateQuery
QUERY_ALL: StateQuery
QUERY_DEDUPED: StateQuery
QUERY_KILLED: StateQuery
QUERY_NO_RESOURCE: StateQuery
QUERY_CLIENT_ERROR: StateQuery
QUERY_CREATED_TS: SortQuery
QUERY_COMPLETED_TS: SortQuery
QUERY_ABANDONED_TS: SortQuery
QUERY_STARTED_TS: SortQuery
NULL: NullableBool
FALSE: NullableBool
TRUE: NullableBool

class StringPair(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class StringListPair(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, key: _Optional[str] = ..., value: _Optional[_Iterable[str]] = ...) -> None: ...
