"""What can go wrong with the file. Each message says what, which, expected and remedy."""

from __future__ import annotations


class StoreError(Exception):
    """A request to the store that cannot be met; the file is as it was. `code` is stable, `message` is for
    people.

    Codes: `not_a_file`, `folder_missing`, `not_readable`, `not_writable`, `not_swarmd`, `damaged_file`,
    `newer_file`, `file_in_use`, `lock_failed`, `no_wal`, `no_space_for_copy`, `copy_failed`,
    `migration_failed`, `target_exists`, `target_unusable`, `digest_mismatch`, `size_mismatch`,
    `blob_missing`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class StoreBroken(StoreError):
    """Commits are not possible any more: the daemon must stop with this sentence. What was acknowledged is in
    the file.
    """

    def __init__(self, message: str) -> None:
        super().__init__("store_broken", message)
