#!/usr/bin/env python3
"""Makes the command table of Handover: src/command/commands.tsv and src/command/table_data.rs.

    scripts/command-table.py            ask the servers, merge, decide, write both files
    scripts/command-table.py --offline  ask nobody: facts stay as committed, rules are applied anew
    scripts/command-table.py --check    as --offline, but only say whether the files would change

Facts (arity, flags, key positions, ACL categories, subcommands) come from COMMAND of running servers: Debian's
Redis 7.0.15 (package redis-tools, whose redis-check-rdb is the server under another name), Redis 8.0.2 from trixie
and Valkey 8.0.1 from bookworm-backports, both unpacked into a temporary folder. Commands that none of those has come
from scripts/command-table.documented.tsv, written by hand with the source of each line. A server that cannot be had
is named on stderr, and what it said the last time is kept from the committed table.

Class, retry category, blind and slow are decided here, by rules and by lists of exceptions.
"""
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TSV = ROOT / "src/command/commands.tsv"
DOCUMENTED = ROOT / "scripts/command-table.documented.tsv"
RUST = ROOT / "src/command/table_data.rs"

COLUMNS = ["name", "arity", "flags", "first_key", "last_key", "step", "categories", "servers", "class", "retry",
           "blind", "slow"]
FACTS = COLUMNS[:8]

# In order of authority: where two servers differ, the first one's facts are taken.
SERVERS = {
    "redis-8.0.2": {
        "suite": "trixie",
        "packages": ["redis-tools", "libc6", "libssl3t64", "libjemalloc2", "liblzf1", "libatomic1", "libstdc++6",
                     "libgcc-s1", "libsystemd0", "libcap2", "zlib1g", "libzstd1", "liblzma5"],
        "program": "usr/bin/redis-check-rdb", "name": "redis-server", "version": "redis_version:8.0.2",
    },
    "valkey-8.0.1": {
        "suite": "bookworm-backports",
        "packages": ["valkey-tools"],
        "program": "usr/bin/valkey-check-rdb", "name": "valkey-server", "version": "valkey_version:8.0.1",
    },
    "redis-7.0.15": {"program": "/usr/bin/redis-check-rdb", "name": "redis-server", "version": "redis_version:7.0.15"},
}

# ---------------------------------------------------------------- rules: class

REFUSED = {"shutdown", "debug", "module", "sync", "psync", "replconf", "replicaof", "slaveof", "failover",
           "script|debug", "migrate", "swapdb"}
CLOSED = ["connect", "delete", "head", "host:", "options", "patch", "post", "pri", "put", "trace"]
ANSWERED = {
    "hello": "hello", "auth": "auth", "select": "select", "reset": "reset", "quit": "quit", "ping": "ping",
    "acl|whoami": "acl-whoami", "readonly": "cluster", "readwrite": "cluster", "asking": "cluster",
    "cluster": "cluster", "subscribe": "subscribe", "unsubscribe": "unsubscribe", "psubscribe": "psubscribe",
    "punsubscribe": "punsubscribe", "ssubscribe": "ssubscribe", "sunsubscribe": "sunsubscribe",
} | {f"client|{name}": f"client-{name.replace('_', '-')}" for name in (
    "id", "info", "list", "setname", "getname", "setinfo", "reply", "kill", "unblock", "pause", "unpause",
    "no-evict", "getredir", "trackinginfo", "maint_notifications", "help")}
PINNED = {
    "multi": "multi", "exec": "exec", "discard": "discard", "watch": "watch", "unwatch": "unwatch", "wait": "wait",
    "waitaof": "wait", "client|tracking": "tracking", "client|caching": "tracking", "client|no-touch": "tracking",
    "monitor": "monitor", "himport": "field-sets", "eval": "script", "eval_ro": "script", "evalsha": "script",
    "evalsha_ro": "script", "fcall": "script", "fcall_ro": "script", "script": "script", "function": "script",
    # Containers whose administration is pinned whole, help texts too.
    "acl": "admin", "config": "admin", "slowlog": "admin", "latency": "admin", "memory": "admin",
    "commandlog": "admin", "hotkeys": "admin", "backup": "admin",
    # CLIENT alone, or with a subcommand that the table does not have, may change its connection.
    "client": "admin",
}
# Flags say otherwise, but these answer one frame and leave nothing on the connection.
SHARED = {"echo", "acl|cat", "acl|genpass", "pubsub", "publish", "spublish", "command"}
# They block only with an option that classify looks for.
SHARED_UNLESS_BLOCK = {"xread", "xreadgroup", "ts.read"}
# Shared, but their replies begin with a cursor, which carries the epoch.
CURSOR = {"scan", "hscan", "sscan", "zscan"}


def by_family(name, rules):
    """The rule for a subcommand is its own, else its container's."""
    return rules.get(name) or rules.get(name.split("|")[0])


def class_of(row):
    name, flags = row["name"], row["flags"].split(",")
    container = name.split("|")[0]
    if name in CLOSED:
        return "closed"
    if name in REFUSED or container in REFUSED:
        return "refused"
    if name in ANSWERED or container == "cluster":
        return "answered:" + by_family(name, ANSWERED)
    if name in SHARED or container in SHARED or name in SHARED_UNLESS_BLOCK:
        return "shared"
    if name in CURSOR:
        return "cursor"
    if by_family(name, PINNED):
        return "pinned:" + by_family(name, PINNED)
    if "blocking" in flags:
        return "pinned:blocking"
    if {"noscript", "pubsub", "admin"} & set(flags) or "connection" in row["categories"].split(","):
        return "pinned:admin"
    return "shared"


# ---------------------------------------------------------------- rules: retry category

CHECKED = set("""setnx hsetnx msetnx copy restore restore-asking rename renamenx move smove xgroup|create del unlink srem zrem hdel
    delex delifeq""".split())
# The table of the contract, and what is a named command in another dress: the P and H forms of EXPIRE, HMSET of HSET,
# GEOADD of ZADD, MSETEX of MSET, HSETEX of HSET.
LAST_WINS = set("""set mset setex psetex hset hmset sadd zadd expire expireat pexpire pexpireat persist setrange lset
    xtrim getex sort sinterstore sunionstore sdiffstore zinterstore zunionstore zdiffstore zrangestore geosearchstore
    georadius georadiusbymember hexpire hexpireat hpexpire hpexpireat hpersist hgetex hsetex msetex
    geoadd""".split())
# No write flag, but a repeat is seen: a message comes twice, a page of a cursor is skipped.
ACCUMULATING = {"publish", "spublish", "ft.cursor|read", "ft.cursor|del"}
NEVER = {"eval", "evalsha", "fcall", "exec", "wait", "waitaof"}
# Administration that only looks.
ADMIN_READS = set("""role lastsave acl acl|cat acl|genpass acl|help acl|list acl|users acl|getuser acl|dryrun
    acl|whoami config config|get config|help slowlog slowlog|get slowlog|len slowlog|help commandlog commandlog|get
    commandlog|len commandlog|help latency latency|doctor latency|graph latency|histogram latency|history
    latency|latest latency|help memory memory|doctor memory|help memory|malloc-stats memory|stats memory|usage
    module|list module|help hotkeys hotkeys|get hotkeys|help backup backup|list backup|status backup|help
    ft.config ft.config|get ft.config|help command pubsub""".split())
# Not flagged as administration, but it is.
SERVER_ADMIN = {"script|flush", "script|kill", "function|kill", "script|debug", "memory|purge", "acl|log"}
CONNECTION = {"multi", "discard", "watch", "unwatch", "monitor", "himport", "himport|prepare", "himport|discard",
              "himport|discardall"}


def retry_of(row):
    name, flags = row["name"], set(row["flags"].split(","))
    categories = set(row["categories"].split(","))
    container = name.split("|")[0]
    if name in CLOSED or name in NEVER:
        return "never"
    if name in CONNECTION:
        return "connection"
    if name in CHECKED:
        return "write-checked"
    if name in LAST_WINS:
        return "write-last-wins"
    if name in ACCUMULATING:
        return "write-accumulating"
    if name in ADMIN_READS or container in {"pubsub", "command"}:
        return "read-only"
    if name in SERVER_ADMIN or "admin" in flags | categories:
        return "server-admin"
    if "write" in flags:
        return "write-accumulating"
    if row["class"].startswith("answered:") or "connection" in categories:
        return "connection"
    return "read-only"


# ---------------------------------------------------------------- rules: blind, slow

BLIND = {"set", "mset", "setex", "psetex", "hmset", "lset"}
SLOW = {"keys", "sort", "sort_ro", "flushall", "flushdb"}


def slow_of(row):
    name, flags = row["name"], row["flags"].split(",")
    stores = name.endswith("store") and name != "restore"
    return (name in SLOW or stores or "." in name or "module" in flags or "admin" in flags
            or row["class"] in {"pinned:admin", "pinned:script"})


def decide(row):
    row["class"] = class_of(row)
    row["retry"] = retry_of(row)
    row["blind"] = "1" if row["name"] in BLIND else "0"
    row["slow"] = "1" if slow_of(row) else "0"


# ---------------------------------------------------------------- facts: running servers

def fetch(folder, suite, packages):
    """Unpacks packages of a Debian suite under `folder`, through an apt configuration of its own."""
    for sub in ("lists/partial", "cache/archives/partial", "root"):
        (folder / sub).mkdir(parents=True)
    (folder / "sources.list").write_text(
        f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian {suite} main\n")
    (folder / "status").write_text("")
    options = []
    for key, value in {"Dir::Etc::sourcelist": folder / "sources.list", "Dir::Etc::sourceparts": "-",
                       "Dir::State::lists": folder / "lists", "Dir::Cache": folder / "cache",
                       "Dir::State::status": folder / "status", "Acquire::Languages": "none",
                       "APT::Sandbox::User": "root"}.items():
        options += ["-o", f"{key}={value}"]
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "cwd": folder}
    subprocess.run(["apt-get", *options, "update"], **quiet)
    subprocess.run(["apt-get", *options, "download", *packages], **quiet)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, folder / "root"], **quiet)
    return folder / "root"


def start(folder, server):
    """Starts the server on a Unix socket in `folder`; with its own loader when its C library came with it."""
    root = fetch(folder / "fetch", server["suite"], server["packages"]) if "suite" in server else pathlib.Path("/")
    program = folder / server["name"]
    program.symlink_to(root / server["program"].lstrip("/"))
    command = [str(program)]
    loaders = sorted(root.glob("usr/lib*/*/ld-linux*")) if "libc6" in server.get("packages", []) else []
    if loaders:
        command = [str(loaders[0]), "--library-path", str(loaders[0].parent), "--argv0", server["name"], str(program)]
    path = folder / "socket"
    process = subprocess.Popen([*command, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        try:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(path))
            return process, connection.makefile("rwb")
        except OSError:
            time.sleep(0.05)
    process.kill()
    process.wait()
    raise RuntimeError("it did not start")


def call(stream, *words):
    encoded = [word.encode() for word in words]
    stream.write(b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded))
    stream.flush()
    return read_reply(stream)


def read_reply(stream):
    line = stream.readline().rstrip(b"\r\n").decode()
    kind, rest = line[0], line[1:]
    if kind == ":":
        return int(rest)
    if kind == "$":
        return stream.read(int(rest) + 2)[:-2].decode()
    if kind == "*":
        return [read_reply(stream) for _ in range(int(rest))]
    if kind == "-":
        raise RuntimeError(rest)
    return rest


def rows_of(entries, label):
    for entry in entries:
        name, arity, flags, first, last, step, categories = entry[:7]
        yield {"name": name.lower(), "arity": str(arity), "flags": ",".join(sorted(flags)) or "-",
               "first_key": str(first), "last_key": str(last), "step": str(step),
               "categories": ",".join(sorted(name.lstrip("@") for name in categories)) or "-", "servers": label}
        yield from rows_of(entry[9] if len(entry) > 9 else [], label)


def ask(label):
    server = SERVERS[label]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="command-table-"))
    process = None
    try:
        process, stream = start(folder, server)
        if server["version"] not in call(stream, "INFO", "server"):
            raise RuntimeError(f"it is not {label}")
        return list(rows_of(call(stream, "COMMAND"), label))
    finally:
        if process:
            process.terminate()
            process.wait()
        shutil.rmtree(folder)


# ---------------------------------------------------------------- the table

def read_tsv(path):
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    header = lines[0].split("\t")
    return [dict(zip(header, line.split("\t"), strict=True)) for line in lines[1:]]


def collect(offline):
    """Facts per server, newest authority first; what a missing server said is taken from the committed table."""
    committed = read_tsv(TSV) if TSV.exists() else []
    table = {}
    for label in SERVERS:
        rows = None
        if not offline:
            try:
                rows = ask(label)
            except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
                detail = getattr(error, "stderr", None) or error
                print(f"{label}: skipped, its lines stay as committed: {detail}", file=sys.stderr)
        if rows is None:
            rows = [{key: row[key] for key in FACTS} | {"servers": label}
                    for row in committed if label in row["servers"].split(",")]
        for row in rows:
            if row["name"] in table:
                table[row["name"]]["servers"] += "," + label
            else:
                table[row["name"]] = dict(row)
    return table


def build(offline):
    table = collect(offline)
    for row in read_tsv(DOCUMENTED):
        known = table.get(row["name"])
        if known is None:
            table[row["name"]] = {key: row[key] for key in FACTS if key != "servers"} | {"servers": row["source"]}
    for name in CLOSED:
        table[name] = dict(zip(FACTS, [name, "-1", "-", "0", "0", "0", "-", "no-command"], strict=True))
    for row in table.values():
        decide(row)
    # A container comes before its subcommands, which stand together.
    return [table[name] for name in sorted(table, key=lambda name: name.split("|"))]


def tsv(rows):
    head = ("# The command table. Made by scripts/command-table.py; do not edit by hand.\n"
            "# servers: which of the servers asked have it, else the document that describes it.\n")
    return head + "".join("\t".join(row[key] for key in COLUMNS) + "\n" for row in [dict(zip(COLUMNS, COLUMNS)), *rows])


# ---------------------------------------------------------------- the Rust file

def camel(words):
    special = {"psubscribe": "PSubscribe", "punsubscribe": "PUnsubscribe", "ssubscribe": "SSubscribe",
               "sunsubscribe": "SUnsubscribe", "setname": "SetName", "getname": "GetName", "setinfo": "SetInfo",
               "getredir": "GetRedir", "trackinginfo": "TrackingInfo"}
    return "".join(special.get(word, word.capitalize()) for word in words.split("-"))


def bits(kind, names):
    if names == "-":
        return f"{kind}::NONE"
    joined = "".join(f".and({kind}::{name.replace('-', '_').upper()})" for name in names.split(","))
    return f"{kind}::NONE{joined}"


def class_in_rust(text):
    outer, _, inner = text.partition(":")
    return f"Class::{camel(outer)}({camel(outer)}::{camel(inner)})" if inner else f"Class::{camel(outer)}"


def rust(rows):
    containers = {}
    for position, row in enumerate(rows):
        if "|" in row["name"]:
            start, _ = containers.get(row["name"].split("|")[0], (position, 0))
            containers[row["name"].split("|")[0]] = (start, position + 1)
    lines = ["//! The command table's data. Made from commands.tsv by scripts/command-table.py; do not edit by hand.", "",
             "use super::retry::Category;", "use super::table::{AclCategories, Answered, Class, Command, Flags, Pinned};",
             "", "/// Every command, each container followed by its subcommands.", "#[rustfmt::skip]",
             f"pub(super) static COMMANDS: [Command; {len(rows)}] = ["]
    for position, row in enumerate(rows):
        start, end = containers.get(row["name"], (0, 0))
        lines.append(
            f'    Command {{ id: {position}, name: "{row["name"]}", arity: {row["arity"]}, '
            f'flags: {bits("Flags", row["flags"])}, '
            f'keys: ({row["first_key"]}, {row["last_key"]}, {row["step"]}), '
            f'categories: {bits("AclCategories", row["categories"])}, class: {class_in_rust(row["class"])}, '
            f'retry: Category::{camel(row["retry"])}, blind: {str(row["blind"] == "1").lower()}, '
            f'slow: {str(row["slow"] == "1").lower()}, subcommands: ({start}, {end}) }},')
    return "\n".join([*lines, "];", ""])


def main():
    check = "--check" in sys.argv
    rows = build(check or "--offline" in sys.argv)
    stale = [path for path, text in ((TSV, tsv(rows)), (RUST, rust(rows)))
             if not path.exists() or path.read_text() != text]
    if check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: run scripts/command-table.py --offline", file=sys.stderr)
        return 1 if stale else 0
    TSV.write_text(tsv(rows))
    RUST.write_text(rust(rows))
    print(f"{len(rows)} commands and subcommands; changed: {[str(path.relative_to(ROOT)) for path in stale]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
