//! What is sent: commands made from templates, from the command table's names alone, and from both with a flaw.

use handover::command::table;

use super::random::Random;

/// A command's words.
pub(crate) type Words = Vec<Vec<u8>>;

/// Commands by what they are about. `$s $l $t $h $z $x $g $p $b` are keys of a type (string, list, set, hash, sorted
/// set, stream, places, HyperLogLog, bits), `$k` any key, `$v` a value, `$f` a field, `$n` a small number, `$N` any
/// number, `$S` a score, `$i` a stream's id, `$d` a database, `$c` a channel, `$P` a pattern of channels, `$e` and `$E`
/// a long time in seconds and milliseconds, `$D` a dump, `$L` a library's code and `$F` its function. `a|b` is a choice,
/// `(…)` may be left out.
const FAMILIES: &[(&str, &[&str])] = &[
    (
        "strings",
        &[
            "SET $s $v",
            "SET $s $v",
            "SET $s $n",
            "SET $s 10",
            "SET $s $v NX|XX|GET|KEEPTTL (GET)",
            "SET $s $v EX $e (NX|XX|GET)",
            "SET $s $v PX $E",
            "SET $s $v EXAT 4102444800",
            "SET $s $v PXAT 4102444800000",
            "GET $s",
            "GET $s",
            "GETSET $s $v",
            "GETDEL $s",
            "GETEX $s (PERSIST)",
            "GETEX $s EX|EXAT 4102444800",
            "APPEND $s $v",
            "STRLEN $s",
            "SETRANGE $s $n $v",
            "GETRANGE $s $N $N",
            "SUBSTR $s $n $N",
            "INCR $s",
            "DECR $s",
            "INCRBY $s $N",
            "DECRBY $s $N",
            "INCRBYFLOAT $s $S",
            "SETNX $s $v",
            "SETEX $s $e $v",
            "PSETEX $s $E $v",
            "MSET $s $v $s $v",
            "MSETNX $s $v $s $v",
            "MGET $s $s $k",
            "LCS $s $s (LEN|IDX) (MINMATCHLEN $n) (WITHMATCHLEN)",
        ],
    ),
    (
        "bits",
        &[
            "SETBIT $b $n 0|1",
            "SETBIT $b $n 1",
            "GETBIT $b $n",
            "BITCOUNT $b ($n $N (BYTE|BIT))",
            "BITPOS $b 0|1 ($n ($N (BIT)))",
            "BITOP AND|OR|XOR $b $b $b",
            "BITOP NOT $b $b",
            "BITFIELD $b (GET u8 $n) INCRBY i5 $n $N (OVERFLOW WRAP|SAT|FAIL) SET u4 #1 $n",
            "BITFIELD_RO $b GET u8 $n (GET i16 $n)",
            "BITFIELD_RO $b SET u8 0 1",
            "SET $b $v",
        ],
    ),
    (
        "lists",
        &[
            "RPUSH $l $v $v $n",
            "LPUSH $l $v $f",
            "RPUSH $l a b c",
            "LPUSHX $l $v",
            "RPUSHX $l $v",
            "LPOP $l ($n)",
            "RPOP $l ($n)",
            "LLEN $l",
            "LRANGE $l $N $N",
            "LRANGE $l 0 -1",
            "LINDEX $l $N",
            "LSET $l $N $v",
            "LINSERT $l BEFORE|AFTER $v|a|b $v",
            "LREM $l $N $v|a",
            "LTRIM $l $N $N",
            "LMOVE $l $l LEFT|RIGHT LEFT|RIGHT",
            "RPOPLPUSH $l $l",
            "LPOS $l $v|a|b (RANK 1|-1|2) (COUNT $n) (MAXLEN $n)",
            "LMPOP 2 $l $l LEFT|RIGHT (COUNT $n)",
            "LMPOP $n $l LEFT",
            "BLPOP $l $l 0.001",
            "BRPOP $l 0.001",
            "BLMOVE $l $l LEFT|RIGHT LEFT|RIGHT 0.001",
            "BRPOPLPUSH $l $l 0.001",
            "BLMPOP 0.001 2 $l $l LEFT|RIGHT (COUNT 2)",
        ],
    ),
    (
        "sets",
        &[
            "SADD $t $f $f $v",
            "SADD $t 1 2 3",
            "SREM $t $f $f",
            "SMEMBERS $t",
            "SISMEMBER $t $f",
            "SMISMEMBER $t $f $v",
            "SCARD $t",
            "SMOVE $t $t $f",
            "SINTER $t $t",
            "SUNION $t $t",
            "SDIFF $t $t",
            "SINTERSTORE $t $t $t",
            "SUNIONSTORE $t $t $t",
            "SDIFFSTORE $t $t $t",
            "SINTERCARD 2 $t $t (LIMIT $n)",
            "SRANDMEMBER $t ($n|-3)",
            "SPOP $t 1000",
            "SPOP none ($n)",
            "SSCAN $t 0 (MATCH f*) COUNT 1000",
        ],
    ),
    (
        "hashes",
        &[
            "HSET $h $f $v $f $v",
            "HSET $h f1 $n f2 a",
            "HMSET $h $f $v",
            "HSETNX $h $f $v",
            "HGET $h $f",
            "HMGET $h $f $f",
            "HGETALL $h",
            "HKEYS $h",
            "HVALS $h",
            "HLEN $h",
            "HEXISTS $h $f",
            "HDEL $h $f $f",
            "HINCRBY $h $f $N",
            "HINCRBYFLOAT $h $f $S",
            "HSTRLEN $h $f",
            "HRANDFIELD $h ($n|-3 (WITHVALUES))",
            "HSCAN $h 0 (MATCH f*) COUNT 1000",
        ],
    ),
    (
        "sorted sets",
        &[
            "ZADD $z $S $f $S $f",
            "ZADD $z 1 f1 2 f2 3 f3",
            "ZADD $z NX|XX|GT|LT (CH) (INCR) $S $f",
            "ZINCRBY $z $S $f",
            "ZSCORE $z $f",
            "ZMSCORE $z $f $f",
            "ZRANK $z $f",
            "ZREVRANK $z $f",
            "ZCARD $z",
            "ZCOUNT $z $S|-inf|(1 $S|+inf",
            "ZLEXCOUNT $z -|[f1 +|(f3",
            "ZRANGE $z $N $N (WITHSCORES)",
            "ZRANGE $z -inf +inf BYSCORE (REV) (LIMIT 0 $n) (WITHSCORES)",
            "ZRANGE $z - + BYLEX (LIMIT 1 1)",
            "ZREVRANGE $z 0 -1 (WITHSCORES)",
            "ZRANGEBYSCORE $z -inf +inf (WITHSCORES) (LIMIT $n $N)",
            "ZREVRANGEBYSCORE $z $S $S",
            "ZRANGEBYLEX $z - + (LIMIT 0 2)",
            "ZREVRANGEBYLEX $z + -",
            "ZREM $z $f $f",
            "ZPOPMIN $z ($n)",
            "ZPOPMAX $z ($n)",
            "ZMPOP 2 $z $z MIN|MAX (COUNT $n)",
            "ZRANGESTORE $z $z $N $N (REV)",
            "ZUNIONSTORE $z 2 $z $z (WEIGHTS 2 $S) (AGGREGATE SUM|MIN|MAX)",
            "ZINTERSTORE $z 2 $z $t",
            "ZDIFFSTORE $z 2 $z $z",
            "ZUNION 2 $z $z (WITHSCORES)",
            "ZINTER 2 $z $z (WITHSCORES)",
            "ZDIFF 2 $z $z",
            "ZINTERCARD 2 $z $z (LIMIT $n)",
            "ZREMRANGEBYRANK $z $N $N",
            "ZREMRANGEBYSCORE $z $S $S",
            "ZREMRANGEBYLEX $z [f1 (f3",
            "ZRANDMEMBER $z ($n|-3 (WITHSCORES))",
            "ZSCAN $z 0 (MATCH f*) COUNT 1000",
            "BZPOPMIN $z $z 0.001",
            "BZPOPMAX $z 0.001",
            "BZMPOP 0.001 1 $z MIN|MAX (COUNT 2)",
        ],
    ),
    (
        "places",
        &[
            "GEOADD $g (NX|XX) (CH) 13.361389 38.115556 f1 15.087269 37.502669 f2",
            "GEOADD $g $S $S $f",
            "GEOPOS $g $f $f",
            "GEODIST $g $f $f (m|km|ft|parsec)",
            "GEOHASH $g f1 f2 $f",
            "GEOSEARCH $g FROMLONLAT 15 37 BYRADIUS 200 km ASC|DESC (COUNT $n (ANY)) (WITHCOORD) (WITHDIST) (WITHHASH)",
            "GEOSEARCH $g FROMMEMBER $f BYBOX 400 400 km ASC",
            "GEOSEARCHSTORE $g $g FROMLONLAT 15 37 BYRADIUS 200 km (STOREDIST)",
            "GEORADIUS $g 15 37 200 km ASC (WITHDIST) (COUNT 1) (STORE $g)",
            "GEORADIUS_RO $g 15 37 200 km ASC",
            "GEORADIUSBYMEMBER $g $f 300 km ASC",
            "GEORADIUSBYMEMBER_RO $g $f 300 km DESC",
        ],
    ),
    (
        "streams",
        &[
            "XADD $x $i f $v",
            "XADD $x $i f $v",
            "XADD $x (NOMKSTREAM) (MAXLEN ~|= $n) * f $v",
            "XADD $x 7-* f $v",
            "XLEN $x",
            "XRANGE $x - + (COUNT $n)",
            "XRANGE $x $i ($i",
            "XREVRANGE $x + - (COUNT 2)",
            "XDEL $x $i $i",
            "XTRIM $x MAXLEN|MINID (=) $n",
            "XTRIM $x MAXLEN ~ $n LIMIT $n",
            "XREAD (COUNT $n) STREAMS $x $x 0 $i",
            "XREAD (COUNT 2) BLOCK 1 STREAMS $x $|$i",
            "XGROUP CREATE $x g1|g2 0|$|$i (MKSTREAM) (ENTRIESREAD $n)",
            "XGROUP CREATE $x g1 0 MKSTREAM",
            "XGROUP SETID $x g1 $i",
            "XGROUP DESTROY $x g1|g2",
            "XGROUP CREATECONSUMER $x g1 c1",
            "XGROUP DELCONSUMER $x g1 c1",
            "XREADGROUP GROUP g1 c1|c2 (COUNT $n) (NOACK) STREAMS $x >|0",
            "XREADGROUP GROUP g1 c1 BLOCK 1 STREAMS $x >",
            "XACK $x g1 $i $i",
            "XPENDING $x g1 (- + 10 (c1))",
            "XPENDING $x g1 IDLE 0 - + 10",
            "XCLAIM $x g1 c2 0 $i (JUSTID) (FORCE) (RETRYCOUNT 3)",
            "XAUTOCLAIM $x g1 c2 0 0 (COUNT 2) (JUSTID)",
            "XSETID $x $i (ENTRIESADDED $n MAXDELETEDID $i)",
            "XINFO STREAM $x (FULL (COUNT $n))",
            "XINFO GROUPS $x",
            "XINFO CONSUMERS $x g1",
            "XINFO HELP",
            "XGROUP HELP",
        ],
    ),
    (
        "estimates",
        &[
            "PFADD $p $v $f",
            "PFADD $p a b c",
            "PFCOUNT $p ($p)",
            "PFMERGE $p $p $p",
            "PFDEBUG ENCODING|DECODE $p",
            "PFADD $p",
        ],
    ),
    (
        "keys",
        &[
            "DEL $k $k",
            "UNLINK $k",
            "EXISTS $k $k $k",
            "TYPE $k",
            "TOUCH $k $k",
            "RENAME $k $k",
            "RENAMENX $k $k",
            "COPY $k $k (DB $d) (REPLACE)",
            "MOVE $k $d",
            "EXPIRE $k $e (NX|XX|GT|LT)",
            "PEXPIRE $k $E",
            "EXPIREAT $k 4102444800 (NX|XX|GT|LT)",
            "PEXPIREAT $k 4102444800000",
            "EXPIRE $k -1",
            "PERSIST $k",
            "TTL $k",
            "PTTL $k",
            "EXPIRETIME $k",
            "PEXPIRETIME $k",
            "OBJECT ENCODING|REFCOUNT|IDLETIME|FREQ $k",
            "OBJECT HELP|NOSUCH",
            "KEYS *|?1|[",
            "DBSIZE",
            "RANDOMKEY",
            "SCAN 0 (MATCH *1) COUNT 1000 (TYPE string|list|hash|nosuch)",
            "SCAN $n COUNT 1",
            "SORT $l|$t|$z ALPHA (LIMIT 0 $n) (ASC|DESC)",
            "SORT $l ALPHA STORE $l",
            "SORT $l BY nosort GET # GET w_*",
            "SORT_RO $l ALPHA (DESC)",
            "SORT $l",
            "DUMP $k",
            "RESTORE $k 0|$E $D (REPLACE) (ABSTTL) (IDLETIME 5) (FREQ 3)",
            "RESTORE $k 0 $v",
            "RESTORE-ASKING $k 0 $D REPLACE",
            "MEMORY USAGE $k (SAMPLES $n)",
            "FLUSHDB (ASYNC|SYNC)",
            "WAIT x y",
            "SPOP $t 1000",
        ],
    ),
    (
        "scripts",
        &[
            "EVAL return{KEYS[1],ARGV[1]} 1 $k $v",
            "EVAL return(redis.call('GET',KEYS[1])) 1 $s",
            "EVAL return(redis.call('SET',KEYS[1],ARGV[1])) 1 $s $v",
            "EVAL return(redis.call('INCR',KEYS[1])) 1 $k",
            "EVAL return(redis.pcall('LPUSH',KEYS[1],ARGV[1])) 1 $k $v",
            "EVAL_RO return(redis.call('GET',KEYS[1])) 1 $k",
            "EVAL_RO return(redis.call('SET',KEYS[1],'x')) 1 $s",
            "EVAL return(1.5) 0",
            "EVAL return({1,{2,false,true,'x'},nil,3}) 0",
            "EVAL return({err='MY'}) 0",
            "EVAL return(redis.error_reply('WORD')) 0",
            "EVAL return({ok='fine'}) 0",
            "EVAL redis.setresp(3);return(redis.call('HGETALL',KEYS[1])) 1 none",
            "EVAL return({double=3.25}) 0",
            "EVAL x 0",
            "EVAL error('boom') 0",
            "EVAL return(1) -1",
            "EVAL return(1) x",
            "EVAL return(#ARGV) 0 $v $v $v",
            "EVAL return(redis.sha1hex(ARGV[1])) 0 $v",
            "EVAL return(redis.call('BLPOP',KEYS[1],0)) 1 none",
            "EVAL return(redis.call('SELECT',ARGV[1])) 0 $d",
            "EVAL return(redis.status_reply('FINE')) 0",
            "EVALSHA nosuch 0",
            "EVALSHA ffffffffffffffffffffffffffffffffffffffff 0",
            "EVALSHA_RO ffffffffffffffffffffffffffffffffffffffff 1 $k",
            "SCRIPT EXISTS ffffffffffffffffffffffffffffffffffffffff nosuch",
            "SCRIPT LOAD x",
            "SCRIPT LOAD return(7)",
            "SCRIPT HELP",
            "SCRIPT NOSUCH",
            "SCRIPT KILL",
            "FUNCTION KILL",
            "FUNCTION HELP",
            "FUNCTION LOAD nonsense",
            "FUNCTION LOAD (REPLACE) $L",
            "FUNCTION LOAD $L",
            "FCALL $F 1 $k $v",
            "FCALL $F 1 $s $v",
            "FCALL_RO $F 1 $k",
            "FCALL nosuch 0",
            "FCALL $F x",
            "EVAL return(redis.call('PUBLISH','nobody','x')) 0",
        ],
    ),
    (
        "subscriptions",
        &[
            "SUBSCRIBE $c ($c)",
            "PSUBSCRIBE $P ($P)",
            "SSUBSCRIBE $c ($c)",
            "UNSUBSCRIBE ($c ($c))",
            "PUNSUBSCRIBE ($P)",
            "SUNSUBSCRIBE ($c)",
            "SUBSCRIBE",
            "PSUBSCRIBE",
            "SSUBSCRIBE",
            "PUBLISH $c $v",
            "PUBLISH $c $v",
            "SPUBLISH $c $v",
            "PUBSUB NUMSUB $c $c",
            "PUBSUB SHARDNUMSUB $c",
            "PUBSUB CHANNELS $P",
            "PUBSUB SHARDCHANNELS $P",
            "PUBSUB HELP",
            "PUBSUB NOSUCH",
            "PING",
            "PING $v",
            "PUBLISH $c",
            "UNSUBSCRIBE none",
            "SUNSUBSCRIBE none",
        ],
    ),
    (
        "connection",
        &[
            "SELECT $d",
            "SELECT $d",
            "SELECT 9999",
            "SELECT x",
            "SELECT -1",
            "SELECT",
            "HELLO",
            "HELLO 2",
            "HELLO 3",
            "HELLO 3 SETNAME me",
            "HELLO 2 AUTH default x",
            "HELLO 3 AUTH default",
            "HELLO 9",
            "HELLO x",
            "HELLO 3 NOSUCH",
            "HELLO 2 SETNAME $v",
            "HELLO 3 AUTH nobody x",
            "RESET",
            "PING",
            "PING $v",
            "PING $v $v",
            "ECHO $v",
            "CLIENT ID",
            "CLIENT GETNAME",
            "CLIENT SETNAME $v|me|a:b",
            "CLIENT SETNAME",
            "CLIENT GETREDIR",
            "CLIENT TRACKINGINFO",
            "CLIENT NO-EVICT on|off|x",
            "CLIENT HELP",
            "CLIENT NOSUCH",
            "CLIENT",
            "CLIENT INFO",
            "CLIENT LIST",
            "CLIENT SETINFO LIB-NAME x",
            "AUTH x",
            "AUTH default x",
            "AUTH nobody x",
            "AUTH",
            "ACL WHOAMI",
            "ACL CAT",
            "ACL CAT nosuch|string|pubsub",
            "ACL GENPASS ($n)",
            "ACL DRYRUN default GET $k",
            "READONLY",
            "READWRITE",
            "ASKING",
            "CLUSTER INFO|NODES|NOSUCH|HELP",
            "CLUSTER KEYSLOT $k",
            "CLUSTER",
            "TIME",
            "LASTSAVE",
            "ROLE",
            "INFO (server|clients|nosuch)",
            "COMMAND COUNT",
            "COMMAND DOCS get|set|nosuch",
            "COMMAND INFO get nosuch xgroup|config",
            "COMMAND GETKEYS SET $k $v",
            "COMMAND GETKEYSANDFLAGS MSET $k $v $k $v",
            "COMMAND GETKEYS PING",
            "COMMAND LIST FILTERBY ACLCAT|PATTERN|MODULE geo|xr*",
            "COMMAND NOSUCH",
            "COMMAND HELP",
            "CONFIG GET maxmemory|databases|nosuch",
            "CONFIG GET save maxmemory-policy",
            "CONFIG SET nosuch 1",
            "CONFIG SET maxmemory x",
            "CONFIG",
            "CONFIG NOSUCH",
            "SLOWLOG LEN|HELP|NOSUCH",
            "LATENCY HELP|LATEST|NOSUCH",
            "MEMORY DOCTOR|HELP|NOSUCH",
            "LOLWUT VERSION 5 1 1 1",
            "FLUSHDB x",
            "NOSUCHCOMMAND ($v) ($k $n)",
            "NOSUCH|COMMAND",
            "GET|SET|LPUSH",
            "get $s",
            "gEt $s",
            "OBJECT",
            "XINFO",
            "ACL",
            "MEMORY",
            "MULTI x",
            "EXEC x",
            "WATCH",
        ],
    ),
    (
        "transactions",
        &[
            "MULTI",
            "EXEC",
            "EXEC",
            "DISCARD",
            "WATCH $k ($k)",
            "UNWATCH",
            "SET $s $v",
            "INCR $s",
            "GET $s",
            "LPUSH $l $v",
            "HGETALL $h",
            "EVAL return(1) 0",
            "BLPOP $l 0.001",
            "NOSUCHCOMMAND",
            "SELECT $d",
        ],
    ),
];

/// What is the whole server's: sent only by a client that is alone with it.
const GLOBAL: &[&str] = &[
    "FLUSHALL (ASYNC|SYNC)",
    "FLUSHALL x",
    "SCRIPT FLUSH (ASYNC|SYNC)",
    "SCRIPT LOAD return(8)",
    "EVAL return(8) 0",
    "EVALSHA 3e2d4ae8ae1d42b10a0b2fa6b6dd4a4b3bd6e6fd 0",
    "SCRIPT EXISTS 3e2d4ae8ae1d42b10a0b2fa6b6dd4a4b3bd6e6fd",
    "FUNCTION FLUSH (ASYNC|SYNC)",
    "FUNCTION LIST (LIBRARYNAME $P) (WITHCODE)",
    "FUNCTION DUMP",
    "FUNCTION DELETE nosuch",
    "FUNCTION STATS",
    "FUNCTION RESTORE $v (FLUSH|APPEND|REPLACE)",
    "PUBSUB CHANNELS",
    "PUBSUB NUMPAT",
    "PUBSUB SHARDCHANNELS",
    "PUBSUB NUMSUB",
    "CONFIG SET hash-max-listpack-entries $n",
    "CONFIG SET maxmemory-policy allkeys-lru|noeviction|bogus",
    "CONFIG SET slowlog-max-len $n",
    "CONFIG RESETSTAT",
    "ACL LIST",
    "ACL USERS",
    "ACL SETUSER user1 (on) (~*) (+get) (bogus)",
    "ACL GETUSER user1|default|nosuch",
    "ACL DELUSER user1",
    "ACL DRYRUN user1 GET $k",
    "ACL LOG (RESET)",
    "ACL SAVE",
    "ACL LOAD",
    "ACL HELP",
    "SLOWLOG RESET",
    "SLOWLOG GET ($n)",
    "LATENCY RESET",
    "LATENCY HISTORY x",
    "LATENCY GRAPH x",
    "MEMORY STATS",
    "MEMORY MALLOC-STATS",
    "MEMORY PURGE",
    "SAVE",
    "COMMAND",
    "COMMAND LIST",
    "CONFIG REWRITE",
    "INFO",
    "INFO all",
    "LOLWUT",
    "MOVE $k $d",
    "DBSIZE",
];

/// Sent by nobody, with the reason.
const NEVER: &[(&str, &str)] = &[
    ("monitor", "shows what every other client sends; tests of its own"),
    ("pfselftest", "takes seconds"),
    ("bgsave", "answers by whether a child process runs at that moment"),
    ("bgrewriteaof", "answers by whether a child process runs at that moment"),
    ("post", "the connection ends, and what was answered before may be lost with it; tests of its own"),
    ("host:", "the connection ends, and what was answered before may be lost with it; tests of its own"),
    ("quit", "how a stream may end"),
    ("client|reply", "changes how many replies come; tests of its own"),
    ("client|kill", "concerns other clients; tests of its own"),
    ("client|pause", "concerns other clients; tests of its own"),
    ("client|unblock", "concerns other clients; tests of its own"),
    ("connect", "a word of HTTP: the connection ends"),
    ("delete", "a word of HTTP: the connection ends"),
    ("head", "a word of HTTP: the connection ends"),
    ("options", "a word of HTTP: the connection ends"),
    ("patch", "a word of HTTP: the connection ends"),
    ("pri", "a word of HTTP: the connection ends"),
    ("put", "a word of HTTP: the connection ends"),
    ("trace", "a word of HTTP: the connection ends"),
];

/// Not in the table's random streams beside other clients: they change or show what is the whole server's.
const ALONE: &[&str] = &[
    "acl|deluser",
    "acl|getuser",
    "acl|list",
    "acl|load",
    "acl|log",
    "acl|save",
    "acl|setuser",
    "acl|users",
    "config|resetstat",
    "config|rewrite",
    "config|set",
    "flushall",
    "function|delete",
    "function|dump",
    "function|flush",
    "function|list",
    "function|load",
    "function|restore",
    "function|stats",
    "latency|reset",
    "pubsub|channels",
    "pubsub|numpat",
    "pubsub|shardchannels",
    "save",
    "script|flush",
    "script|load",
    "slowlog|reset",
    "script|exists",
    "evalsha",
    "evalsha_ro",
];

/// Of the table's random streams: their numbers would be short times, after which they come back or keys are gone.
const TIMED: &[&str] = &[
    "blmove",
    "blmpop",
    "blpop",
    "brpop",
    "brpoplpush",
    "bzmpop",
    "bzpopmax",
    "bzpopmin",
    "client|pause",
    "expire",
    "getex",
    "pexpire",
    "psetex",
    "restore",
    "restore-asking",
    "set",
    "setex",
    "wait",
    "waitaof",
    "xread",
    "xreadgroup",
];

/// Words of options, for arguments without sense.
const OPTIONS: &[&str] = &[
    "NX",
    "XX",
    "GET",
    "KEEPTTL",
    "GT",
    "LT",
    "CH",
    "INCR",
    "COUNT",
    "MATCH",
    "WITHSCORES",
    "LIMIT",
    "BY",
    "STORE",
    "REPLACE",
    "LEFT",
    "RIGHT",
    "MIN",
    "MAX",
    "BEFORE",
    "STREAMS",
    "GROUP",
    "MAXLEN",
    "~",
    "=",
    "-",
    "+",
    "0-0",
    "$",
    ">",
    "*",
    "(1",
    "[a",
    "-inf",
    "ASC",
    "ALPHA",
    "FULL",
    "WEIGHTS",
    "AGGREGATE",
    "BYSCORE",
    "REV",
    "HELP",
    "JUSTID",
    "AND",
    "u8",
    "km",
    "FROMMEMBER",
    "ON",
];

/// Numbers and strings at the edges. None is a short time, a large piece of memory, or for ever.
const EDGES: &[&[u8]] = &[
    b"",
    b"-1",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"18446744073709551616",
    b"1e400",
    b"nan",
    b" 1",
    b"1 ",
    b"+1",
    b"1e-3",
    b"abc",
    b"\x00\xff\r\n",
    b"\r\n+OK\r\n",
    b"%s%n",
    b"'\"",
    b"\xe2\x82\xac",
];

/// Who sends, and what may be said in the presence of others.
pub(crate) struct Author<'a> {
    pub(crate) random: Random,
    /// The first of two databases that nobody else uses.
    pub(crate) base: usize,
    pub(crate) is_alone: bool,
    /// Whose turn it is among the commands of the table.
    pub(crate) turn: Option<usize>,
    pub(crate) dumps: &'a [Vec<u8>],
}

impl Author<'_> {
    /// One stream: mostly of two families, so that its commands meet.
    pub(crate) fn stream(&mut self) -> Vec<Words> {
        let families = [self.family(), self.family()];
        let mut commands = vec![self.words(&format!("SELECT {}", self.base))];
        if self.random.chance(35) {
            commands.push(self.words("HELLO 3"));
        }
        if let Some(turn) = self.turn {
            let command = &table::all()[turn % table::all().len()];
            if !NEVER.iter().any(|(name, _)| *name == command.name) {
                commands.push(self.of_table(command));
            }
        }
        let length = 5 + self.random.below(11);
        while commands.len() < length {
            let kind = self.random.below(100);
            match kind {
                0..60 => {
                    let family = families[self.random.below(2)];
                    let template = self.random.one(family.1);
                    commands.push(self.words(template));
                }
                60..76 => {
                    let family = self.family();
                    let template = self.random.one(family.1);
                    commands.push(self.words(template));
                }
                76..80 => self.transaction(&mut commands),
                80..86 if self.is_alone => {
                    let template = self.random.one(GLOBAL);
                    commands.push(self.words(template));
                }
                _ => commands.push(self.table_command()),
            }
            self.spoil_last(&mut commands);
            if commands.last().is_some_and(parts_ways) {
                commands.pop();
            }
            if commands.last().is_some_and(|command| command[0].eq_ignore_ascii_case(b"RESET")) {
                // It leads to database 0, where the clients would meet.
                commands.push(self.words(&format!("SELECT {}", self.base)));
            }
        }
        commands
    }

    fn family(&mut self) -> (&'static str, &'static [&'static str]) {
        FAMILIES[self.random.below(FAMILIES.len())]
    }

    fn transaction(&mut self, commands: &mut Vec<Words>) {
        commands.push(self.words("MULTI"));
        for _ in 0..self.random.below(4) {
            let family = self.family();
            let template = self.random.one(family.1);
            commands.push(self.words(template));
        }
        commands.push(self.words("EXEC|EXEC|EXEC|EXEC|DISCARD"));
    }

    /// A command of the table, with as many arguments as it takes, or one more or less, and no sense in them.
    fn table_command(&mut self) -> Words {
        let command = loop {
            let command = &table::all()[self.random.below(table::all().len())];
            let is_never = NEVER.iter().any(|(name, _)| *name == command.name);
            let is_fitting = self.is_alone || !ALONE.contains(&command.name);
            if !is_never && is_fitting && !(command.is_container() && self.random.chance(50)) {
                break command;
            }
        };
        self.of_table(command)
    }

    fn of_table(&mut self, command: &table::Command) -> Words {
        let mut words: Words = command.name.split('|').map(|word| word.to_uppercase().into_bytes()).collect();
        let least = usize::from(command.arity.unsigned_abs()).max(words.len());
        let count = match self.random.below(10) {
            0 => least.saturating_sub(1),
            1 => least + 1,
            2..4 if command.arity < 0 => least + 1 + self.random.below(3),
            _ => least,
        };
        let is_timed = TIMED.contains(&command.name);
        let is_pubsub = command.name.contains("subscribe")
            || command.name.contains("publish")
            || command.name.starts_with("pubsub");
        while words.len() < count {
            let word = match self.random.below(10) {
                _ if is_pubsub => self.placeholder('c'),
                0..4 => self.placeholder('k'),
                4 if !is_timed => self.placeholder('v'),
                4 | 5 => self.placeholder('f'),
                6 if !is_timed => self.base.to_string().into_bytes(),
                6 | 7 => EDGES[self.random.below(EDGES.len())].to_vec(),
                _ => self.random.one(OPTIONS).as_bytes().to_vec(),
            };
            words.push(word);
        }
        words.truncate(count.max(1));
        words
    }

    /// Now and then a command gets a flaw: a word less, twice, another, elsewhere.
    fn spoil_last(&mut self, commands: &mut [Words]) {
        let Some(words) = commands.last_mut() else { return };
        if self.random.chance(10) {
            words[0] = if self.random.chance(50) { words[0].to_ascii_lowercase() } else { swapped_case(&words[0]) };
        }
        let name = words[0].to_ascii_lowercase();
        let is_channels = name.ends_with(b"subscribe") || name.ends_with(b"publish") || name == b"pubsub";
        if words.len() < 2 || !self.random.chance(12) || is_channels {
            return;
        }
        // The word after the name may be a subcommand, and "0" a time without end.
        let index = 1 + self.random.below(words.len() - 1);
        match self.random.below(6) {
            0 => {
                words.remove(index);
            }
            1 => words.insert(index, words[index].clone()),
            2 | 3 => words[index] = EDGES[self.random.below(EDGES.len())].to_vec(),
            4 => words.push(self.random.one(OPTIONS).as_bytes().to_vec()),
            _ => {
                let other = 1 + self.random.below(words.len() - 1);
                words.swap(index, other);
            }
        }
    }

    /// The words of a template.
    pub(crate) fn words(&mut self, template: &str) -> Words {
        let mut words = Vec::new();
        let (mut skipped, mut depth) = (None, 0);
        for part in template.split(' ') {
            // A lone "(1" or "(f3" is an open end of a range; a group has its end in the same template.
            let opens = part.starts_with('(') && !part.contains("(1") && !part.starts_with("(f3") && part != "($i";
            let text = if opens { &part[1..] } else { part };
            if opens {
                depth += 1;
                if skipped.is_none() && self.random.chance(50) {
                    skipped = Some(depth);
                }
            }
            let is_script = text.contains("return") || text.contains("error('");
            let closing =
                if is_script { 0 } else { text.bytes().rev().take_while(|byte| *byte == b')').count().min(depth) };
            if skipped.is_none() {
                let word = &text[..text.len() - closing];
                words.push(self.word(word, is_script));
            }
            depth -= closing;
            if skipped.is_some_and(|from| from > depth) {
                skipped = None;
            }
        }
        words
    }

    fn word(&mut self, word: &str, is_script: bool) -> Vec<u8> {
        if is_script {
            return word.as_bytes().to_vec();
        }
        let choices: Vec<&str> = word.split('|').collect();
        let word = choices[self.random.below(choices.len())];
        match word.strip_prefix('$').and_then(|rest| rest.chars().next()) {
            Some(kind) => self.placeholder(kind),
            None if word.starts_with("($") => [b"(".to_vec(), self.placeholder('i')].concat(),
            None => word.as_bytes().to_vec(),
        }
    }

    fn placeholder(&mut self, kind: char) -> Vec<u8> {
        let base = self.base;
        match kind {
            's' | 'l' | 't' | 'h' | 'z' | 'x' | 'g' | 'p' | 'b' => self.key(kind),
            'k' => {
                let kind = *self.random.one(&[&'s', &'l', &'t', &'h', &'z', &'x', &'s']);
                self.key(kind)
            }
            'v' => self.value(),
            'f' => format!("f{}", 1 + self.random.below(3)).into_bytes(),
            'n' => self.random.below(20).to_string().into_bytes(),
            'N' => self.random.one(&["0", "1", "-1", "2", "-3", "100", "9223372036854775807", "-9223372036854775808"]).as_bytes().to_vec(),
            'S' => self.random.one(&["0", "1", "1.5", "-3", "inf", "2e3", "-inf", "0.1"]).as_bytes().to_vec(),
            'i' => format!("{}-{}", self.random.below(6), self.random.below(3) + 1).into_bytes(),
            'd' => (base + self.random.below(2)).to_string().into_bytes(),
            'c' => format!("channel:{base}:{}", self.random.below(3)).into_bytes(),
            'P' => format!("channel:{base}:{}", self.random.one(&["*", "?", "[01]", "2"])).into_bytes(),
            'e' => (1000 + self.random.below(1000)).to_string().into_bytes(),
            'E' => (1_000_000 + self.random.below(1000)).to_string().into_bytes(),
            'D' => self.dumps[self.random.below(self.dumps.len())].clone(),
            'L' => format!(
                "#!lua name=library{base}\nredis.register_function('function{base}',function(keys,args) return redis.call('TYPE',keys[1]) end)"
            )
            .into_bytes(),
            'F' => format!("function{base}").into_bytes(),
            // "$" alone: the end of a stream.
            _ => b"$".to_vec(),
        }
    }

    /// A key of a type, mostly.
    fn key(&mut self, kind: char) -> Vec<u8> {
        let kind = if self.random.chance(8) { *self.random.one(&[&'s', &'l', &'t', &'h', &'z', &'x']) } else { kind };
        format!("{kind}{}", self.random.below(3)).into_bytes()
    }

    fn value(&mut self) -> Vec<u8> {
        match self.random.below(300) {
            // Above what may share a connection.
            0 => vec![b'y'; 60_000 + self.random.below(60_000)],
            1..20 => vec![b'x'; self.random.below(3000)],
            20..40 => Vec::new(),
            40..60 => b"\r\n+OK\r\n$-1\r\n".to_vec(),
            60..80 => (0..=255).collect(),
            80..130 => self.random.below(100).to_string().into_bytes(),
            other => format!("v{}", other % 8).into_bytes(),
        }
    }
}

/// Commands after which two servers rightly hold different things, or that show what is each one's own.
fn parts_ways(command: &Words) -> bool {
    let has = |option: &str| command.iter().any(|word| word.eq_ignore_ascii_case(option.as_bytes()));
    match command[0].to_ascii_lowercase().as_slice() {
        b"spop" => command.len() == 2 || (command.len() == 3 && command[1] != b"none" && command[2] != b"1000"),
        b"sort" => has("BY") && has("STORE"),
        // Ports and folders.
        b"config" => has("*"),
        _ => false,
    }
}

fn swapped_case(word: &[u8]) -> Vec<u8> {
    word.iter()
        .enumerate()
        .map(|(index, byte)| if index % 2 == 0 { byte.to_ascii_lowercase() } else { byte.to_ascii_uppercase() })
        .collect()
}

/// Every command of the table is sent, or is among those that never are.
pub(crate) fn unsent(names: &std::collections::BTreeSet<String>) -> Vec<&'static str> {
    let is_sent = |name: &str| names.contains(name) || NEVER.iter().any(|(never, _)| *never == name);
    table::all().iter().map(|command| command.name).filter(|name| !is_sent(name)).collect()
}
