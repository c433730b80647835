from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ServerDetails(_message.Message):
    __slots__ = ("server_version", "bot_version", "machine_provider_template", "display_server_url_template", "luci_config", "cas_viewer_server")
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    BOT_VERSION_FIELD_NUMBER: _ClassVar[int]
    MACHINE_PROVIDER_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_SERVER_URL_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    LUCI_CONFIG_FIELD_NUMBER: _ClassVar[int]
    CAS_VIEWER_SERVER_FIELD_NUMBER: _ClassVar[int]
    server_version: str
    bot_version: str
    machine_provider_template: str
    display_server_url_template: str
    luci_config: str
    cas_viewer_server: str
    def __init__(self, server_version: _Optional[str] = ..., bot_version: _Optional[str] = ..., machine_provider_template: _Optional[str] = ..., display_server_url_template: _Optional[str] = ..., luci_config: _Optional[str] = ..., cas_viewer_server: _Optional[str] = ...) -> None: ...

class BootstrapToken(_message.Message):
    __slots__ = ("bootstrap_token",)
    BOOTSTRAP_TOKEN_FIELD_NUMBER: _ClassVar[int]
    bootstrap_token: str
    def __init__(self, bootstrap_token: _Optional[str] = ...) -> None: ...

class ClientPermissions(_message.Message):
    __slots__ = ("delete_bot", "delete_bots", "terminate_bot", "get_configs", "put_configs", "cancel_task", "get_bootstrap_token", "cancel_tasks", "list_bots", "list_tasks")
    DELETE_BOT_FIELD_NUMBER: _ClassVar[int]
    DELETE_BOTS_FIELD_NUMBER: _ClassVar[int]
    TERMINATE_BOT_FIELD_NUMBER: _ClassVar[int]
    GET_CONFIGS_FIELD_NUMBER: _ClassVar[int]
    PUT_CONFIGS_FIELD_NUMBER: _ClassVar[int]
    CANCEL_TASK_FIELD_NUMBER: _ClassVar[int]
    GET_BOOTSTRAP_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CANCEL_TASKS_FIELD_NUMBER: _ClassVar[int]
    LIST_BOTS_FIELD_NUMBER: _ClassVar[int]
    LIST_TASKS_FIELD_NUMBER: _ClassVar[int]
    delete_bot: bool
    delete_bots: bool
    terminate_bot: bool
    get_configs: bool
    put_configs: bool
    cancel_task: bool
    get_bootstrap_token: bool
    cancel_tasks: bool
    list_bots: _containers.RepeatedScalarFieldContainer[str]
    list_tasks: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, delete_bot: _Optional[bool] = ..., delete_bots: _Optional[bool] = ..., terminate_bot: _Optional[bool] = ..., get_configs: _Optional[bool] = ..., put_configs: _Optional[bool] = ..., cancel_task: _Optional[bool] = ..., get_bootstrap_token: _Optional[bool] = ..., cancel_tasks: _Optional[bool] = ..., list_bots: _Optional[_Iterable[str]] = ..., list_tasks: _Optional[_Iterable[str]] = ...) -> None: ...

class PermissionsRequest(_message.Message):
    __slots__ = ("bot_id", "task_id", "tags")
    BOT_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    bot_id: str
    task_id: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, bot_id: _Optional[str] = ..., task_id: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ...) -> None: ...
