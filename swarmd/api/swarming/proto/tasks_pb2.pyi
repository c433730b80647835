import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from swarmd.api.swarming.proto import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Digest(_message.Message):
    __slots__ = ("hash", "size_bytes")
    HASH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    hash: str
    size_bytes: int
    def __init__(self, hash: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class CASReference(_message.Message):
    __slots__ = ("cas_instance", "digest")
    CAS_INSTANCE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    cas_instance: str
    digest: Digest
    def __init__(self, cas_instance: _Optional[str] = ..., digest: _Optional[_Union[Digest, _Mapping]] = ...) -> None: ...

class CipdPackage(_message.Message):
    __slots__ = ("package_name", "version", "path")
    PACKAGE_NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    package_name: str
    version: str
    path: str
    def __init__(self, package_name: _Optional[str] = ..., version: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class CipdInput(_message.Message):
    __slots__ = ("server", "client_package", "packages")
    SERVER_FIELD_NUMBER: _ClassVar[int]
    CLIENT_PACKAGE_FIELD_NUMBER: _ClassVar[int]
    PACKAGES_FIELD_NUMBER: _ClassVar[int]
    server: str
    client_package: CipdPackage
    packages: _containers.RepeatedCompositeFieldContainer[CipdPackage]
    def __init__(self, server: _Optional[str] = ..., client_package: _Optional[_Union[CipdPackage, _Mapping]] = ..., packages: _Optional[_Iterable[_Union[CipdPackage, _Mapping]]] = ...) -> None: ...

class CipdPins(_message.Message):
    __slots__ = ("client_package", "packages")
    CLIENT_PACKAGE_FIELD_NUMBER: _ClassVar[int]
    PACKAGES_FIELD_NUMBER: _ClassVar[int]
    client_package: CipdPackage
    packages: _containers.RepeatedCompositeFieldContainer[CipdPackage]
    def __init__(self, client_package: _Optional[_Union[CipdPackage, _Mapping]] = ..., packages: _Optional[_Iterable[_Union[CipdPackage, _Mapping]]] = ...) -> None: ...

class CacheEntry(_message.Message):
    __slots__ = ("name", "path")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    name: str
    path: str
    def __init__(self, name: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class Containment(_message.Message):
    __slots__ = ("lower_priority", "containment_type", "limit_processes", "limit_total_committed_memory")
    class ContainmentType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        NOT_SPECIFIED: _ClassVar[Containment.ContainmentType]
        NONE: _ClassVar[Containment.ContainmentType]
        AUTO: _ClassVar[Containment.ContainmentType]
        JOB_OBJECT: _ClassVar[Containment.ContainmentType]
    NOT_SPECIFIED: Containment.ContainmentType
    NONE: Containment.ContainmentType
    AUTO: Containment.ContainmentType
    JOB_OBJECT: Containment.ContainmentType
    LOWER_PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CONTAINMENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_PROCESSES_FIELD_NUMBER: _ClassVar[int]
    LIMIT_TOTAL_COMMITTED_MEMORY_FIELD_NUMBER: _ClassVar[int]
    lower_priority: bool
    containment_type: Containment.ContainmentType
    limit_processes: int
    limit_total_committed_memory: int
    def __init__(self, lower_priority: _Optional[bool] = ..., containment_type: _Optional[_Union[Containment.ContainmentType, str]] = ..., limit_processes: _Optional[int] = ..., limit_total_committed_memory: _Optional[int] = ...) -> None: ...

class TaskProperties(_message.Message):
    __slots__ = ("caches", "cipd_input", "command", "relative_cwd", "dimensions", "env", "env_prefixes", "execution_timeout_secs", "grace_period_secs", "idempotent", "cas_input_root", "io_timeout_secs", "outputs", "secret_bytes", "containment")
    CACHES_FIELD_NUMBER: _ClassVar[int]
    CIPD_INPUT_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_CWD_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    ENV_PREFIXES_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_TIMEOUT_SECS_FIELD_NUMBER: _ClassVar[int]
    GRACE_PERIOD_SECS_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENT_FIELD_NUMBER: _ClassVar[int]
    CAS_INPUT_ROOT_FIELD_NUMBER: _ClassVar[int]
    IO_TIMEOUT_SECS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    SECRET_BYTES_FIELD_NUMBER: _ClassVar[int]
    CONTAINMENT_FIELD_NUMBER: _ClassVar[int]
    caches: _containers.RepeatedCompositeFieldContainer[CacheEntry]
    cipd_input: CipdInput
    command: _containers.RepeatedScalarFieldContainer[str]
    relative_cwd: str
    dimensions: _containers.RepeatedCompositeFieldContainer[_common_pb2.StringPair]
    env: _containers.RepeatedCompositeFieldContainer[_common_pb2.StringPair]
    env_prefixes: _containers.RepeatedCompositeFieldContainer[_common_pb2.StringListPair]
    execution_timeout_secs: int
    grace_period_secs: int
    idempotent: bool
    cas_input_root: CASReference
    io_timeout_secs: int
    outputs: _containers.RepeatedScalarFieldContainer[str]
    secret_bytes: bytes
    containment: Containment
    def __init__(self, caches: _Optional[_Iterable[_Union[CacheEntry, _Mapping]]] = ..., cipd_input: _Optional[_Union[CipdInput, _Mapping]] = ..., command: _Optional[_Iterable[str]] = ..., relative_cwd: _Optional[str] = ..., dimensions: _Optional[_Iterable[_Union[_common_pb2.StringPair, _Mapping]]] = ..., env: _Optional[_Iterable[_Union[_common_pb2.StringPair, _Mapping]]] = ..., env_prefixes: _Optional[_Iterable[_Union[_common_pb2.StringListPair, _Mapping]]] = ..., execution_timeout_secs: _Optional[int] = ..., grace_period_secs: _Optional[int] = ..., idempotent: _Optional[bool] = ..., cas_input_root: _Optional[_Union[CASReference, _Mapping]] = ..., io_timeout_secs: _Optional[int] = ..., outputs: _Optional[_Iterable[str]] = ..., secret_bytes: _Optional[bytes] = ..., containment: _Optional[_Union[Containment, _Mapping]] = ...) -> None: ...

class TaskSlice(_message.Message):
    __slots__ = ("properties", "expiration_secs", "wait_for_capacity")
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    EXPIRATION_SECS_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_CAPACITY_FIELD_NUMBER: _ClassVar[int]
    properties: TaskProperties
    expiration_secs: int
    wait_for_capacity: bool
    def __init__(self, properties: _Optional[_Union[TaskProperties, _Mapping]] = ..., expiration_secs: _Optional[int] = ..., wait_for_capacity: _Optional[bool] = ...) -> None: ...

class SwarmingTaskBackendConfig(_message.Message):
    __slots__ = ("priority", "bot_ping_tolerance", "parent_run_id", "service_account", "wait_for_capacity", "agent_binary_cipd_pkg", "agent_binary_cipd_vers", "agent_binary_cipd_filename", "agent_binary_cipd_server", "tags", "task_name")
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    BOT_PING_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    PARENT_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SERVICE_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_CAPACITY_FIELD_NUMBER: _ClassVar[int]
    AGENT_BINARY_CIPD_PKG_FIELD_NUMBER: _ClassVar[int]
    AGENT_BINARY_CIPD_VERS_FIELD_NUMBER: _ClassVar[int]
    AGENT_BINARY_CIPD_FILENAME_FIELD_NUMBER: _ClassVar[int]
    AGENT_BINARY_CIPD_SERVER_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    TASK_NAME_FIELD_NUMBER: _ClassVar[int]
    priority: int
    bot_ping_tolerance: int
    parent_run_id: str
    service_account: str
    wait_for_capacity: bool
    agent_binary_cipd_pkg: str
    agent_binary_cipd_vers: str
    agent_binary_cipd_filename: str
    agent_binary_cipd_server: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    task_name: str
    def __init__(self, priority: _Optional[int] = ..., bot_ping_tolerance: _Optional[int] = ..., parent_run_id: _Optional[str] = ..., service_account: _Optional[str] = ..., wait_for_capacity: _Optional[bool] = ..., agent_binary_cipd_pkg: _Optional[str] = ..., agent_binary_cipd_vers: _Optional[str] = ..., agent_binary_cipd_filename: _Optional[str] = ..., agent_binary_cipd_server: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ..., task_name: _Optional[str] = ...) -> None: ...

class ResultDBCfg(_message.Message):
    __slots__ = ("enable",)
    ENABLE_FIELD_NUMBER: _ClassVar[int]
    enable: bool
    def __init__(self, enable: _Optional[bool] = ...) -> None: ...

class NewTaskRequest(_message.Message):
    __slots__ = ("expiration_secs", "name", "parent_task_id", "priority", "properties", "task_slices", "tags", "user", "service_account", "pubsub_topic", "pubsub_auth_token", "pubsub_userdata", "evaluate_only", "pool_task_template", "bot_ping_tolerance_secs", "request_uuid", "resultdb", "realm")
    class PoolTaskTemplateField(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        AUTO: _ClassVar[NewTaskRequest.PoolTaskTemplateField]
        CANARY_PREFER: _ClassVar[NewTaskRequest.PoolTaskTemplateField]
        CANARY_NEVER: _ClassVar[NewTaskRequest.PoolTaskTemplateField]
        SKIP: _ClassVar[NewTaskRequest.PoolTaskTemplateField]
    AUTO: NewTaskRequest.PoolTaskTemplateField
    CANARY_PREFER: NewTaskRequest.PoolTaskTemplateField
    CANARY_NEVER: NewTaskRequest.PoolTaskTemplateField
    SKIP: NewTaskRequest.PoolTaskTemplateField
    EXPIRATION_SECS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARENT_TASK_ID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    TASK_SLICES_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    SERVICE_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    PUBSUB_TOPIC_FIELD_NUMBER: _ClassVar[int]
    PUBSUB_AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PUBSUB_USERDATA_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    POOL_TASK_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    BOT_PING_TOLERANCE_SECS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_UUID_FIELD_NUMBER: _ClassVar[int]
    RESULTDB_FIELD_NUMBER: _ClassVar[int]
    REALM_FIELD_NUMBER: _ClassVar[int]
    expiration_secs: int
    name: str
    parent_task_id: str
    priority: int
    properties: TaskProperties
    task_slices: _containers.RepeatedCompositeFieldContainer[TaskSlice]
    tags: _containers.RepeatedScalarFieldContainer[str]
    user: str
    service_account: str
    pubsub_topic: str
    pubsub_auth_token: str
    pubsub_userdata: str
    evaluate_only: bool
    pool_task_template: NewTaskRequest.PoolTaskTemplateField
    bot_ping_tolerance_secs: int
    request_uuid: str
    resultdb: ResultDBCfg
    realm: str
    def __init__(self, expiration_secs: _Optional[int] = ..., name: _Optional[str] = ..., parent_task_id: _Optional[str] = ..., priority: _Optional[int] = ..., properties: _Optional[_Union[TaskProperties, _Mapping]] = ..., task_slices: _Optional[_Iterable[_Union[TaskSlice, _Mapping]]] = ..., tags: _Optional[_Iterable[str]] = ..., user: _Optional[str] = ..., service_account: _Optional[str] = ..., pubsub_topic: _Optional[str] = ..., pubsub_auth_token: _Optional[str] = ..., pubsub_userdata: _Optional[str] = ..., evaluate_only: _Optional[bool] = ..., pool_task_template: _Optional[_Union[NewTaskRequest.PoolTaskTemplateField, str]] = ..., bot_ping_tolerance_secs: _Optional[int] = ..., request_uuid: _Optional[str] = ..., resultdb: _Optional[_Union[ResultDBCfg, _Mapping]] = ..., realm: _Optional[str] = ...) -> None: ...

class TaskRequestResponse(_message.Message):
    __slots__ = ("task_id", "expiration_secs", "name", "parent_task_id", "priority", "properties", "tags", "created_ts", "user", "authenticated", "task_slices", "service_account", "realm", "resultdb", "pubsub_topic", "pubsub_userdata", "bot_ping_tolerance_secs", "rbe_instance")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRATION_SECS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARENT_TASK_ID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    CREATED_TS_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    AUTHENTICATED_FIELD_NUMBER: _ClassVar[int]
    TASK_SLICES_FIELD_NUMBER: _ClassVar[int]
    SERVICE_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    REALM_FIELD_NUMBER: _ClassVar[int]
    RESULTDB_FIELD_NUMBER: _ClassVar[int]
    PUBSUB_TOPIC_FIELD_NUMBER: _ClassVar[int]
    PUBSUB_USERDATA_FIELD_NUMBER: _ClassVar[int]
    BOT_PING_TOLERANCE_SECS_FIELD_NUMBER: _ClassVar[int]
    RBE_INSTANCE_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    expiration_secs: int
    name: str
    parent_task_id: str
    priority: int
    properties: TaskProperties
    tags: _containers.RepeatedScalarFieldContainer[str]
    created_ts: _timestamp_pb2.Timestamp
    user: str
    authenticated: str
    task_slices: _containers.RepeatedCompositeFieldContainer[TaskSlice]
    service_account: str
    realm: str
    resultdb: ResultDBCfg
    pubsub_topic: str
    pubsub_userdata: str
    bot_ping_tolerance_secs: int
    rbe_instance: str
    def __init__(self, task_id: _Optional[str] = ..., expiration_secs: _Optional[int] = ..., name: _Optional[str] = ..., parent_task_id: _Optional[str] = ..., priority: _Optional[int] = ..., properties: _Optional[_Union[TaskProperties, _Mapping]] = ..., tags: _Optional[_Iterable[str]] = ..., created_ts: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., user: _Optional[str] = ..., authenticated: _Optional[str] = ..., task_slices: _Optional[_Iterable[_Union[TaskSlice, _Mapping]]] = ..., service_account: _Optional[str] = ..., realm: _Optional[str] = ..., resultdb: _Optional[_Union[ResultDBCfg, _Mapping]] = ..., pubsub_topic: _Optional[str] = ..., pubsub_userdata: _Optional[str] = ..., bot_ping_tolerance_secs: _Optional[int] = ..., rbe_instance: _Optional[str] = ...) -> None: ...

class TaskCancelRequest(_message.Message):
    __slots__ = ("task_id", "kill_running")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    KILL_RUNNING_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    kill_running: bool
    def __init__(self, task_id: _Optional[str] = ..., kill_running: _Optional[bool] = ...) -> None: ...

class TasksCancelRequest(_message.Message):
    __slots__ = ("limit", "cursor", "tags", "kill_running", "start", "end")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    KILL_RUNNING_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    limit: int
    cursor: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    kill_running: bool
    start: _timestamp_pb2.Timestamp
    end: _timestamp_pb2.Timestamp
    def __init__(self, limit: _Optional[int] = ..., cursor: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ..., kill_running: _Optional[bool] = ..., start: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class OperationStats(_message.Message):
    __slots__ = ("duration",)
    DURATION_FIELD_NUMBER: _ClassVar[int]
    duration: float
    def __init__(self, duration: _Optional[float] = ...) -> None: ...

class CASOperationStats(_message.Message):
    __slots__ = ("duration", "initial_number_items", "initial_size", "items_cold", "items_hot", "num_items_cold", "total_bytes_items_cold", "num_items_hot", "total_bytes_items_hot")
    DURATION_FIELD_NUMBER: _ClassVar[int]
    INITIAL_NUMBER_ITEMS_FIELD_NUMBER: _ClassVar[int]
    INITIAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_COLD_FIELD_NUMBER: _ClassVar[int]
    ITEMS_HOT_FIELD_NUMBER: _ClassVar[int]
    NUM_ITEMS_COLD_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_ITEMS_COLD_FIELD_NUMBER: _ClassVar[int]
    NUM_ITEMS_HOT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_ITEMS_HOT_FIELD_NUMBER: _ClassVar[int]
    duration: float
    initial_number_items: int
    initial_size: int
    items_cold: bytes
    items_hot: bytes
    num_items_cold: int
    total_bytes_items_cold: int
    num_items_hot: int
    total_bytes_items_hot: int
    def __init__(self, duration: _Optional[float] = ..., initial_number_items: _Optional[int] = ..., initial_size: _Optional[int] = ..., items_cold: _Optional[bytes] = ..., items_hot: _Optional[bytes] = ..., num_items_cold: _Optional[int] = ..., total_bytes_items_cold: _Optional[int] = ..., num_items_hot: _Optional[int] = ..., total_bytes_items_hot: _Optional[int] = ...) -> None: ...

class PerformanceStats(_message.Message):
    __slots__ = ("bot_overhead", "isolated_download", "isolated_upload", "package_installation", "cache_trim", "named_caches_install", "named_caches_uninstall", "cleanup")
    BOT_OVERHEAD_FIELD_NUMBER: _ClassVar[int]
    ISOLATED_DOWNLOAD_FIELD_NUMBER: _ClassVar[int]
    ISOLATED_UPLOAD_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_INSTALLATION_FIELD_NUMBER: _ClassVar[int]
    CACHE_TRIM_FIELD_NUMBER: _ClassVar[int]
    NAMED_CACHES_INSTALL_FIELD_NUMBER: _ClassVar[int]
    NAMED_CACHES_UNINSTALL_FIELD_NUMBER: _ClassVar[int]
    CLEANUP_FIELD_NUMBER: _ClassVar[int]
    bot_overhead: float
    isolated_download: CASOperationStats
    isolated_upload: CASOperationStats
    package_installation: OperationStats
    cache_trim: OperationStats
    named_caches_install: OperationStats
    named_caches_uninstall: OperationStats
    cleanup: OperationStats
    def __init__(self, bot_overhead: _Optional[float] = ..., isolated_download: _Optional[_Union[CASOperationStats, _Mapping]] = ..., isolated_upload: _Optional[_Union[CASOperationStats, _Mapping]] = ..., package_installation: _Optional[_Union[OperationStats, _Mapping]] = ..., cache_trim: _Optional[_Union[OperationStats, _Mapping]] = ..., named_caches_install: _Optional[_Union[OperationStats, _Mapping]] = ..., named_caches_uninstall: _Optional[_Union[OperationStats, _Mapping]] = ..., cleanup: _Optional[_Union[OperationStats, _Mapping]] = ...) -> None: ...

class CancelResponse(_message.Message):
    __slots__ = ("canceled", "was_running")
    CANCELED_FIELD_NUMBER: _ClassVar[int]
    WAS_RUNNING_FIELD_NUMBER: _ClassVar[int]
    canceled: bool
    was_running: bool
    def __init__(self, canceled: _Optional[bool] = ..., was_running: _Optional[bool] = ...) -> None: ...

class TasksCancelResponse(_message.Message):
    __slots__ = ("cursor", "now", "matched")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    cursor: str
    now: _timestamp_pb2.Timestamp
    matched: int
    def __init__(self, cursor: _Optional[str] = ..., now: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., matched: _Optional[int] = ...) -> None: ...

class TaskOutputResponse(_message.Message):
    __slots__ = ("output", "state")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    output: bytes
    state: _common_pb2.TaskState
    def __init__(self, output: _Optional[bytes] = ..., state: _Optional[_Union[_common_pb2.TaskState, str]] = ...) -> None: ...

class ResultDBInfo(_message.Message):
    __slots__ = ("hostname", "invocation")
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    INVOCATION_FIELD_NUMBER: _ClassVar[int]
    hostname: str
    invocation: str
    def __init__(self, hostname: _Optional[str] = ..., invocation: _Optional[str] = ...) -> None: ...

class TaskResultResponse(_message.Message):
    __slots__ = ("task_id", "bot_dimensions", "bot_id", "bot_idle_since_ts", "bot_version", "bot_logs_cloud_project", "completed_ts", "cost_saved_usd", "created_ts", "deduped_from", "duration", "exit_code", "failure", "internal_failure", "modified_ts", "cas_output_root", "server_versions", "started_ts", "state", "abandoned_ts", "costs_usd", "name", "tags", "user", "performance_stats", "cipd_pins", "run_id", "current_task_slice", "resultdb_info", "missing_cas", "missing_cipd")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    BOT_DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    BOT_ID_FIELD_NUMBER: _ClassVar[int]
    BOT_IDLE_SINCE_TS_FIELD_NUMBER: _ClassVar[int]
    BOT_VERSION_FIELD_NUMBER: _ClassVar[int]
    BOT_LOGS_CLOUD_PROJECT_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_TS_FIELD_NUMBER: _ClassVar[int]
    COST_SAVED_USD_FIELD_NUMBER: _ClassVar[int]
    CREATED_TS_FIELD_NUMBER: _ClassVar[int]
    DEDUPED_FROM_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    INTERNAL_FAILURE_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_TS_FIELD_NUMBER: _ClassVar[int]
    CAS_OUTPUT_ROOT_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    STARTED_TS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ABANDONED_TS_FIELD_NUMBER: _ClassVar[int]
    COSTS_USD_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    PERFORMANCE_STATS_FIELD_NUMBER: _ClassVar[int]
    CIPD_PINS_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    CURRENT_TASK_SLICE_FIELD_NUMBER: _ClassVar[int]
    RESULTDB_INFO_FIELD_NUMBER: _ClassVar[int]
    MISSING_CAS_FIELD_NUMBER: _ClassVar[int]
    MISSING_CIPD_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    bot_dimensions: _containers.RepeatedCompositeFieldContainer[_common_pb2.StringListPair]
    bot_id: str
    bot_idle_since_ts: _timestamp_pb2.Timestamp
    bot_version: str
    bot_logs_cloud_project: str
    completed_ts: _timestamp_pb2.Timestamp
    cost_saved_usd: float
    created_ts: _timestamp_pb2.Timestamp
    deduped_from: str
    duration: float
    exit_code: int
    failure: bool
    internal_failure: bool
    modified_ts: _timestamp_pb2.Timestamp
    cas_output_root: CASReference
    server_versions: _containers.RepeatedScalarFieldContainer[str]
    started_ts: _timestamp_pb2.Timestamp
    state: _common_pb2.TaskState
    abandoned_ts: _timestamp_pb2.Timestamp
    costs_usd: _containers.RepeatedScalarFieldContainer[float]
    name: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    user: str
    performance_stats: PerformanceStats
    cipd_pins: CipdPins
    run_id: str
    current_task_slice: int
    resultdb_info: ResultDBInfo
    missing_cas: _containers.RepeatedCompositeFieldContainer[CASReference]
    missing_cipd: _containers.RepeatedCompositeFieldContainer[CipdPackage]
    def __init__(self, task_id: _Optional[str] = ..., bot_dimensions: _Optional[_Iterable[_Union[_common_pb2.StringListPair, _Mapping]]] = ..., bot_id: _Optional[str] = ..., bot_idle_since_ts: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., bot_version: _Optional[str] = ..., bot_logs_cloud_project: _Optional[str] = ..., completed_ts: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., cost_saved_usd: _Optional[float] = ..., created_ts: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., deduped_from: _Optional[str] = ..., duration: _Optional[float] = ..., exit_code: _Optional[int] = ..., failure: _Optional[bool] = ..., internal_failure: _Optional[bool] = ..., modified_ts: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., cas_output_root: _Optional[_Union[CASReference, _Mapping]] = ..., server_versions: _Optional[_Iterable[str]] = ..., started_ts: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[_Union[_common_pb2.TaskState, str]] = ..., abandoned_ts: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., costs_usd: _Optional[_Iterable[float]] = ..., name: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ..., user: _Optional[str] = ..., performance_stats: _Optional[_Union[PerformanceStats, _Mapping]] = ..., cipd_pins: _Optional[_Union[CipdPins, _Mapping]] = ..., run_id: _Optional[str] = ..., current_task_slice: _Optional[int] = ..., resultdb_info: _Optional[_Union[ResultDBInfo, _Mapping]] = ..., missing_cas: _Optional[_Iterable[_Union[CASReference, _Mapping]]] = ..., missing_cipd: _Optional[_Iterable[_Union[CipdPackage, _Mapping]]] = ...) -> None: ...

class TaskStates(_message.Message):
    __slots__ = ("states",)
    STATES_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedScalarFieldContainer[_common_pb2.TaskState]
    def __init__(self, states: _Optional[_Iterable[_Union[_common_pb2.TaskState, str]]] = ...) -> None: ...

class TaskListResponse(_message.Message):
    __slots__ = ("cursor", "items", "now")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    cursor: str
    items: _containers.RepeatedCompositeFieldContainer[TaskResultResponse]
    now: _timestamp_pb2.Timestamp
    def __init__(self, cursor: _Optional[str] = ..., items: _Optional[_Iterable[_Union[TaskResultResponse, _Mapping]]] = ..., now: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class TaskRequestsResponse(_message.Message):
    __slots__ = ("cursor", "items", "now")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    cursor: str
    items: _containers.RepeatedCompositeFieldContainer[TaskRequestResponse]
    now: _timestamp_pb2.Timestamp
    def __init__(self, cursor: _Optional[str] = ..., items: _Optional[_Iterable[_Union[TaskRequestResponse, _Mapping]]] = ..., now: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class TasksCount(_message.Message):
    __slots__ = ("count", "now")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    count: int
    now: _timestamp_pb2.Timestamp
    def __init__(self, count: _Optional[int] = ..., now: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class TaskRequestMetadataResponse(_message.Message):
    __slots__ = ("task_id", "request", "task_result")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    TASK_RESULT_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    request: TaskRequestResponse
    task_result: TaskResultResponse
    def __init__(self, task_id: _Optional[str] = ..., request: _Optional[_Union[TaskRequestResponse, _Mapping]] = ..., task_result: _Optional[_Union[TaskResultResponse, _Mapping]] = ...) -> None: ...

class TaskStatesRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, task_id: _Optional[_Iterable[str]] = ...) -> None: ...

class TasksWithPerfRequest(_message.Message):
    __slots__ = ("limit", "cursor", "start", "end", "state", "sort", "tags", "include_performance_stats")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SORT_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_PERFORMANCE_STATS_FIELD_NUMBER: _ClassVar[int]
    limit: int
    cursor: str
    start: _timestamp_pb2.Timestamp
    end: _timestamp_pb2.Timestamp
    state: _common_pb2.StateQuery
    sort: _common_pb2.SortQuery
    tags: _containers.RepeatedScalarFieldContainer[str]
    include_performance_stats: bool
    def __init__(self, limit: _Optional[int] = ..., cursor: _Optional[str] = ..., start: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[_Union[_common_pb2.StateQuery, str]] = ..., sort: _Optional[_Union[_common_pb2.SortQuery, str]] = ..., tags: _Optional[_Iterable[str]] = ..., include_performance_stats: _Optional[bool] = ...) -> None: ...

class TasksRequest(_message.Message):
    __slots__ = ("limit", "cursor", "start", "end", "state", "sort", "tags")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SORT_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    limit: int
    cursor: str
    start: _timestamp_pb2.Timestamp
    end: _timestamp_pb2.Timestamp
    state: _common_pb2.StateQuery
    sort: _common_pb2.SortQuery
    tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, limit: _Optional[int] = ..., cursor: _Optional[str] = ..., start: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[_Union[_common_pb2.StateQuery, str]] = ..., sort: _Optional[_Union[_common_pb2.SortQuery, str]] = ..., tags: _Optional[_Iterable[str]] = ...) -> None: ...

class TasksCountRequest(_message.Message):
    __slots__ = ("start", "end", "state", "tags")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    start: _timestamp_pb2.Timestamp
    end: _timestamp_pb2.Timestamp
    state: _common_pb2.StateQuery
    tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, start: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[_Union[_common_pb2.StateQuery, str]] = ..., tags: _Optional[_Iterable[str]] = ...) -> None: ...

class TaskIdRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class TaskIdWithOffsetRequest(_message.Message):
    __slots__ = ("task_id", "offset", "length")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    offset: int
    length: int
    def __init__(self, task_id: _Optional[str] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class TaskIdWithPerfRequest(_message.Message):
    __slots__ = ("task_id", "include_performance_stats")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_PERFORMANCE_STATS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    include_performance_stats: bool
    def __init__(self, task_id: _Optional[str] = ..., include_performance_stats: _Optional[bool] = ...) -> None: ...

class BatchGetResultRequest(_message.Message):
    __slots__ = ("task_ids", "include_performance_stats")
    TASK_IDS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_PERFORMANCE_STATS_FIELD_NUMBER: _ClassVar[int]
    task_ids: _containers.RepeatedScalarFieldContainer[str]
    include_performance_stats: bool
    def __init__(self, task_ids: _Optional[_Iterable[str]] = ..., include_performance_stats: _Optional[bool] = ...) -> None: ...

class BatchGetResultResponse(_message.Message):
    __slots__ = ("results",)
    class ResultOrError(_message.Message):
        __slots__ = ("task_id", "result", "error")
        TASK_ID_FIELD_NUMBER: _ClassVar[int]
        RESULT_FIELD_NUMBER: _ClassVar[int]
        ERROR_FIELD_NUMBER: _ClassVar[int]
        task_id: str
        result: TaskResultResponse
        error: _status_pb2.Status
        def __init__(self, task_id: _Optional[str] = ..., result: _Optional[_Union[TaskResultResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchGetResultResponse.ResultOrError]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchGetResultResponse.ResultOrError, _Mapping]]] = ...) -> None: ...
