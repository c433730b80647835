import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from swarmd.api.swarming.proto import common_pb2 as _common_pb2
from swarmd.api.swarming.proto import tasks_pb2 as _tasks_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BotInfo(_message.Message):
    __slots__ = ("bot_id", "task_id", "external_ip", "authenticated_as", "first_seen_ts", "is_dead", "last_seen_ts", "quarantined", "maintenance_msg", "dimensions", "task_name", "version", "state", "deleted", "session_id", "termination_task_id")
    BOT_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_IP_FIELD_NUMBER: _ClassVar[int]
    AUTHENTICATED_AS_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEEN_TS_FIELD_NUMBER: _ClassVar[int]
    IS_DEAD_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_TS_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    MAINTENANCE_MSG_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    TASK_NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TERMINATION_TASK_ID_FIELD_NUMBER: _ClassVar[int]
    bot_id: str
    task_id: str
    external_ip: str
    authenticated_as: str
    first_seen_ts: _timestamp_pb2.Timestamp
    is_dead: bool
    last_seen_ts: _timestamp_pb2.Timestamp
    quarantined: bool
    maintenance_msg: str
    dimensions: _containers.RepeatedCompositeFieldContainer[_common_pb2.StringListPair]
    task_name: str
    version: str
    state: str
    deleted: bool
    session_id: str
    termination_task_id: str
    def __init__(self, bot_id: _Optional[str] = ..., task_id: _Optional[str] = ..., external_ip: _Optional[str] = ..., authenticated_as: _Optional[str] = ..., first_seen_ts: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., is_dead: _Optional[bool] = ..., last_seen_ts: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., quarantined: _Optional[bool] = ..., maintenance_msg: _Optional[str] = ..., dimensions: _Optional[_Iterable[_Union[_common_pb2.StringListPair, _Mapping]]] = ..., task_name: _Optional[str] = ..., version: _Optional[str] = ..., state: _Optional[str] = ..., deleted: _Optional[bool] = ..., session_id: _Optional[str] = ..., termination_task_id: _Optional[str] = ...) -> None: ...

class BotInfoListResponse(_message.Message):
    __slots__ = ("cursor", "items", "now", "death_timeout")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    DEATH_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    cursor: str
    items: _containers.RepeatedCompositeFieldContainer[BotInfo]
    now: _timestamp_pb2.Timestamp
    death_timeout: int
    def __init__(self, cursor: _Optional[str] = ..., items: _Optional[_Iterable[_Union[BotInfo, _Mapping]]] = ..., now: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., death_timeout: _Optional[int] = ...) -> None: ...

class BotsCount(_message.Message):
    __slots__ = ("now", "count", "quarantined", "maintenance", "dead", "busy")
    NOW_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    MAINTENANCE_FIELD_NUMBER: _ClassVar[int]
    DEAD_FIELD_NUMBER: _ClassVar[int]
    BUSY_FIELD_NUMBER: _ClassVar[int]
    now: _timestamp_pb2.Timestamp
    count: int
    quarantined: int
    maintenance: int
    dead: int
    busy: int
    def __init__(self, now: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., count: _Optional[int] = ..., quarantined: _Optional[int] = ..., maintenance: _Optional[int] = ..., dead: _Optional[int] = ..., busy: _Optional[int] = ...) -> None: ...

class BotsDimensions(_message.Message):
    __slots__ = ("bots_dimensions", "ts")
    BOTS_DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    TS_FIELD_NUMBER: _ClassVar[int]
    bots_dimensions: _containers.RepeatedCompositeFieldContainer[_common_pb2.StringListPair]
    ts: _timestamp_pb2.Timestamp
    def __init__(self, bots_dimensions: _Optional[_Iterable[_Union[_common_pb2.StringListPair, _Mapping]]] = ..., ts: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class BotEventResponse(_message.Message):
    __slots__ = ("ts", "event_type", "message", "dimensions", "state", "external_ip", "authenticated_as", "version", "quarantined", "maintenance_msg", "task_id", "session_id")
    TS_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_IP_FIELD_NUMBER: _ClassVar[int]
    AUTHENTICATED_AS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    MAINTENANCE_MSG_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ts: _timestamp_pb2.Timestamp
    event_type: str
    message: str
    dimensions: _containers.RepeatedCompositeFieldContainer[_common_pb2.StringListPair]
    state: str
    external_ip: str
    authenticated_as: str
    version: str
    quarantined: bool
    maintenance_msg: str
    task_id: str
    session_id: str
    def __init__(self, ts: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., event_type: _Optional[str] = ..., message: _Optional[str] = ..., dimensions: _Optional[_Iterable[_Union[_common_pb2.StringListPair, _Mapping]]] = ..., state: _Optional[str] = ..., external_ip: _Optional[str] = ..., authenticated_as: _Optional[str] = ..., version: _Optional[str] = ..., quarantined: _Optional[bool] = ..., maintenance_msg: _Optional[str] = ..., task_id: _Optional[str] = ..., session_id: _Optional[str] = ...) -> None: ...

class BotEventsResponse(_message.Message):
    __slots__ = ("cursor", "items", "now")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    cursor: str
    items: _containers.RepeatedCompositeFieldContainer[BotEventResponse]
    now: _timestamp_pb2.Timestamp
    def __init__(self, cursor: _Optional[str] = ..., items: _Optional[_Iterable[_Union[BotEventResponse, _Mapping]]] = ..., now: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ("deleted",)
    DELETED_FIELD_NUMBER: _ClassVar[int]
    deleted: bool
    def __init__(self, deleted: _Optional[bool] = ...) -> None: ...

class TerminateResponse(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class BotRequest(_message.Message):
    __slots__ = ("bot_id",)
    BOT_ID_FIELD_NUMBER: _ClassVar[int]
    bot_id: str
    def __init__(self, bot_id: _Optional[str] = ...) -> None: ...

class TerminateRequest(_message.Message):
    __slots__ = ("bot_id", "reason")
    BOT_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    bot_id: str
    reason: str
    def __init__(self, bot_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class BotEventsRequest(_message.Message):
    __slots__ = ("bot_id", "limit", "cursor", "start", "end")
    BOT_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    bot_id: str
    limit: int
    cursor: str
    start: _timestamp_pb2.Timestamp
    end: _timestamp_pb2.Timestamp
    def __init__(self, bot_id: _Optional[str] = ..., limit: _Optional[int] = ..., cursor: _Optional[str] = ..., start: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class BotTasksRequest(_message.Message):
    __slots__ = ("bot_id", "limit", "cursor", "start", "end", "state", "sort", "include_performance_stats")
    BOT_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SORT_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_PERFORMANCE_STATS_FIELD_NUMBER: _ClassVar[int]
    bot_id: str
    limit: int
    cursor: str
    start: _timestamp_pb2.Timestamp
    end: _timestamp_pb2.Timestamp
    state: _common_pb2.StateQuery
    sort: _common_pb2.SortQuery
    include_performance_stats: bool
    def __init__(self, bot_id: _Optional[str] = ..., limit: _Optional[int] = ..., cursor: _Optional[str] = ..., start: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[_Union[_common_pb2.StateQuery, str]] = ..., sort: _Optional[_Union[_common_pb2.SortQuery, str]] = ..., include_performance_stats: _Optional[bool] = ...) -> None: ...

class BotsRequest(_message.Message):
    __slots__ = ("limit", "cursor", "dimensions", "quarantined", "in_maintenance", "is_dead", "is_busy")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    IN_MAINTENANCE_FIELD_NUMBER: _ClassVar[int]
    IS_DEAD_FIELD_NUMBER: _ClassVar[int]
    IS_BUSY_FIELD_NUMBER: _ClassVar[int]
    limit: int
    cursor: str
    dimensions: _containers.RepeatedCompositeFieldContainer[_common_pb2.StringPair]
    quarantined: _common_pb2.NullableBool
    in_maintenance: _common_pb2.NullableBool
    is_dead: _common_pb2.NullableBool
    is_busy: _common_pb2.NullableBool
    def __init__(self, limit: _Optional[int] = ..., cursor: _Optional[str] = ..., dimensions: _Optional[_Iterable[_Union[_common_pb2.StringPair, _Mapping]]] = ..., quarantined: _Optional[_Union[_common_pb2.NullableBool, str]] = ..., in_maintenance: _Optional[_Union[_common_pb2.NullableBool, str]] = ..., is_dead: _Optional[_Union[_common_pb2.NullableBool, str]] = ..., is_busy: _Optional[_Union[_common_pb2.NullableBool, str]] = ...) -> None: ...

class BotsCountRequest(_message.Message):
    __slots__ = ("dimensions",)
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    dimensions: _containers.RepeatedCompositeFieldContainer[_common_pb2.StringPair]
    def __init__(self, dimensions: _Optional[_Iterable[_Union[_common_pb2.StringPair, _Mapping]]] = ...) -> None: ...

class BotsDimensionsRequest(_message.Message):
    __slots__ = ("pool",)
    POOL_FIELD_NUMBER: _ClassVar[int]
    pool: str
    def __init__(self, pool: _Optional[str] = ...) -> None: ...
