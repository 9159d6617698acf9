"""What a pool can be joined to: directories, licences, balancing, updates, copies of its database.

None of these services is there. What only sets the pool's own state is done; what needs the other
side fails the way a real pool without it does.
"""

from lab.behaviours.common import the_pool
from lab.calls import Call
from lab.failures import XapiFailure
from lab.registry import message
from lab.storage.disk import Disk
from lab.wire.values import NULL, Value

AUTH_TYPES = ("AD", "PAM")
EDITIONS = ("xcp-ng", "express", "standard", "premium")
METADATA_BYTES = 4 << 20


# -- directories -----------------------------------------------------------------------------------


def _join_directory(
    call: Call, hosts: list[str], config: dict[str, str], service: str, kind: str
) -> None:
    if kind not in AUTH_TYPES:
        raise XapiFailure("AUTH_UNKNOWN_TYPE", kind)
    with call.db.lock:
        for host in hosts:
            record = call.db.record("host", host)
            if record["external_auth_type"]:
                held = (record["external_auth_type"], record["external_auth_service_name"])
                if call.name.startswith("pool."):
                    raise XapiFailure("POOL_AUTH_ALREADY_ENABLED", host)
                raise XapiFailure("AUTH_ALREADY_ENABLED", *held)
        for host in hosts:
            call.db.put(
                "host",
                host,
                external_auth_type=kind,
                external_auth_service_name=service,
                external_auth_configuration={k: v for k, v in config.items() if k != "pass"},
            )


@message("pool.enable_external_auth", "host.enable_external_auth")
def enable_auth(call: Call, owner: str, config: dict[str, str], service: str, kind: str) -> None:
    """Let users of a directory log in; here they are those of `Pool.add_account`."""
    hosts = [owner] if call.name.startswith("host.") else call.db.refs("host")
    _join_directory(call, hosts, config, service, kind)


@message("pool.disable_external_auth", "host.disable_external_auth")
def disable_auth(call: Call, owner: str, *given: Value) -> None:
    """Leave the directory."""
    del given
    none: dict[str, Value] = {"external_auth_type": "", "external_auth_service_name": ""}
    for host in [owner] if call.name.startswith("host.") else call.db.refs("host"):
        call.db.put("host", host, **none, external_auth_configuration={})


@message("pool.detect_nonhomogeneous_external_auth")
def detect_nonhomogeneous_auth(call: Call, pool: str) -> None:
    """Fail unless all hosts are in the same directory."""
    del pool
    kinds = [(call.db.get("host", h, "external_auth_type"), h) for h in call.db.refs("host")]
    for kind, host in kinds:
        if kind != kinds[0][0]:
            raise XapiFailure("POOL_AUTH_ENABLE_FAILED", host, "not the directory of the others")


@message("pool.external_auth_set_ldaps", "host.external_auth_set_ldaps")
def set_ldaps(call: Call, owner: str, ldaps: Value, *force: Value) -> None:
    """Speak TLS to the directory."""
    del force
    for host in [owner] if call.name.startswith("host.") else call.db.refs("host"):
        if not call.db.get("host", host, "external_auth_type"):
            raise XapiFailure("AUTH_IS_DISABLED")
        text = str(bool(ldaps)).lower()
        call.db.set_pair("host", host, "external_auth_configuration", "ldaps", text)


# -- licences --------------------------------------------------------------------------------------


@message("host.apply_edition", "pool.apply_edition")
def apply_edition(call: Call, owner: str, edition: str, *force: Value) -> None:
    """Choose an edition."""
    del force
    if edition not in EDITIONS:
        raise XapiFailure("INVALID_EDITION", edition)
    for host in [owner] if call.name.startswith("host.") else call.db.refs("host"):
        call.db.put("host", host, edition=edition)
        call.db.set_pair("host", host, "license_params", "sku_type", edition)


@message("host.license_add", "host.license_remove")
def license_file(call: Call, host: str, *contents: str) -> None:
    """Take a licence file: there are none any more."""
    del contents
    call.db.row("host", host)
    raise XapiFailure("LICENSE_FILE_DEPRECATED")


# -- workload balancing ----------------------------------------------------------------------------


@message("pool.initialize_wlb")
def initialize_wlb(call: Call, url: str, *given: str) -> None:
    """Ask a balancer for advice: none is to be reached."""
    del call, given
    if not url:
        raise XapiFailure("WLB_URL_INVALID", url)
    raise XapiFailure("WLB_CONNECTION_REFUSED")


@message("pool.deconfigure_wlb", "pool.send_wlb_configuration", "pool.retrieve_wlb_configuration")
@message("pool.retrieve_wlb_recommendations", "host.retrieve_wlb_evacuate_recommendations")
@message("VM.retrieve_wlb_recommendations")
def no_wlb(call: Call, *given: Value) -> None:
    """Talk to a balancer nobody introduced."""
    del call, given
    raise XapiFailure("WLB_NOT_INITIALIZED")


# -- updates ---------------------------------------------------------------------------------------


@message("pool.sync_updates")
def sync_updates(call: Call, pool: str, *given: Value) -> str:
    """Fetch updates from repositories, of which there are none."""
    del call, pool, given
    raise XapiFailure("NO_REPOSITORY_ENABLED")


@message("host.apply_updates")
def apply_updates(call: Call, host: str, fingerprint: str) -> Value:
    """Install updates from repositories, of which there are none."""
    del fingerprint
    call.db.row("host", host)
    raise XapiFailure("NO_REPOSITORY_ENABLED")


@message("pool.add_repository", "pool.remove_repository")
def change_repositories(call: Call, pool: str, repository: str) -> None:
    """Use a repository: none was ever introduced."""
    del pool
    call.db.row("Repository", repository)


@message("pool.check_update_readiness")
def check_update_readiness(call: Call, pool: str, requires_reboot: Value) -> Value:
    """Say what stands in the way of an update."""
    del pool, requires_reboot
    dead = [
        call.db.get("host", host, "uuid")
        for host in call.db.refs("host")
        if not call.db.get("host_metrics", call.db.get("host", host, "metrics"), "live")
    ]
    return [["HOST_NOT_LIVE", uuid] for uuid in dead]


@message("pool.reset_telemetry_uuid")
def reset_telemetry(call: Call, pool: str) -> None:
    """Go by another name in statistics."""
    secret = call.db.create("secret", value=str(call.db.get("pool", pool, "uuid"))[::-1])
    call.db.put("pool", pool, telemetry_uuid=secret)


# -- copies of the pool's database -----------------------------------------------------------------


def _add_database_disk(call: Call, sr: str, kind: str, label: str) -> str:
    call.pool.require_storage(sr)
    call.pool.require_space(sr, METADATA_BYTES)
    disk = Disk.empty(METADATA_BYTES, call.pool.folder)
    return call.pool.add_vdi(disk, SR=sr, type=kind, name_label=label)


@message("pool.enable_redo_log")
def enable_redo_log(call: Call, sr: str) -> None:
    """Write changes of the database to a disk too."""
    pool = the_pool(call)
    if call.db.get("pool", pool, "redo_log_enabled"):
        raise XapiFailure("REDO_LOG_IS_ENABLED")
    vdi = _add_database_disk(call, sr, "redo_log", "Metadata redo-log")
    call.db.put("pool", pool, redo_log_enabled=True, redo_log_vdi=vdi)


@message("pool.disable_redo_log")
def disable_redo_log(call: Call) -> None:
    """Write them there no longer."""
    with call.db.lock:
        pool = the_pool(call)
        vdi = call.db.get("pool", pool, "redo_log_vdi")
        if call.db.exists("VDI", vdi):
            call.pool.drop_vdi(vdi)
        call.db.put("pool", pool, redo_log_enabled=False, redo_log_vdi=NULL)


def _replicas(call: Call, sr: str) -> list[str]:
    return call.db.where("VDI", SR=sr, type="metadata")


@message("SR.enable_database_replication")
def replicate_database(call: Call, sr: str) -> None:
    """Keep a copy of the pool's database on an SR."""
    pool = the_pool(call)
    if _replicas(call, sr):
        return
    vdi = _add_database_disk(call, sr, "metadata", "Metadata for DR")
    with call.db.lock:
        call.db.put("VDI", vdi, metadata_of_pool=pool, metadata_latest=True)
        call.db.add_item("pool", pool, "metadata_VDIs", vdi)


@message("SR.disable_database_replication")
def stop_replication(call: Call, sr: str) -> None:
    """Keep it there no longer."""
    with call.db.lock:
        for vdi in _replicas(call, sr):
            call.db.drop_item("pool", the_pool(call), "metadata_VDIs", vdi)
            call.pool.drop_vdi(vdi)


@message("VDI.read_database_pool_uuid")
def read_database_pool(call: Call, vdi: str) -> str:
    """Which pool the database on a disk belongs to; empty if it holds none."""
    owner = call.db.get("VDI", vdi, "metadata_of_pool")
    return str(call.db.get("pool", owner, "uuid")) if call.db.exists("pool", owner) else ""


# -- caching and large objects ---------------------------------------------------------------------


@message("host.enable_local_storage_caching")
def enable_caching(call: Call, host: str, sr: str) -> None:
    """Cache shared disks on a host's local SR."""
    if call.db.get("SR", sr, "shared") or sr not in call.pool.srs_seen_by(host):
        raise XapiFailure("HOST_CANNOT_SEE_SR", host, sr)
    call.db.put("host", host, local_cache_sr=sr)
    call.db.put("SR", sr, local_cache_enabled=True)


@message("host.disable_local_storage_caching")
def disable_caching(call: Call, host: str) -> None:
    """Cache no longer."""
    sr = call.db.get("host", host, "local_cache_sr")
    if call.db.exists("SR", sr):
        call.db.put("SR", sr, local_cache_enabled=False)
    call.db.put("host", host, local_cache_sr=NULL)


@message("pool.enable_local_storage_caching")
def enable_caching_everywhere(call: Call, pool: str) -> None:
    """Cache on every host that has a local SR for it."""
    del pool
    for host in call.db.refs("host"):
        seen = call.pool.srs_seen_by(host)
        local = [s for s in call.db.where("SR", shared=False, type="ext") if s in seen]
        if not local:
            raise XapiFailure("HOSTS_FAILED_TO_ENABLE_CACHING", host)
        enable_caching(call, host, local[0])


@message("pool.disable_local_storage_caching")
def disable_caching_everywhere(call: Call, pool: str) -> None:
    """Cache nowhere."""
    del pool
    for host in call.db.refs("host"):
        disable_caching(call, host)


@message("pool.disable_binary_storage", "host.disable_binary_storage")
def disable_blobs(call: Call, *host: str) -> None:
    """Drop all blobs."""
    del host
    for blob in call.db.refs("blob"):
        call.pool.blob_contents.pop(blob, None)
        call.db.put("blob", blob, size=0)


@message("pool.enable_binary_storage", "host.enable_binary_storage")
def enable_blobs(call: Call, *host: str) -> None:
    """Keep blobs: they always are kept from then on."""
    del call, host
