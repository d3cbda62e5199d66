//! The Lua scripts of [`Redis`](super::Redis). Each runs on one node, atomically. They access keys
//! that are not in KEYS, so they are for separate servers and not for Redis Cluster.
//!
//! Each script can be run again if the first answer is lost. At worst a sequence is skipped, or an
//! ended session is not counted as ended or stays listed with its user until it expires.
//!
//! The time is that of the node, in milliseconds, so no two clocks have to agree.

use redis::Script;

/// The common start of all scripts. An index is a sorted set of members by their expiry time.
const PRELUDE: &str = r"
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local after_now = string.format('(%.0f', now)

local function expired(index)
    return redis.call('ZRANGEBYSCORE', index, '-inf', now, 'LIMIT', 0, 8)
end

local function enlist(index, member, lifetime)
    redis.call('ZADD', index, now + tonumber(lifetime), member)
    redis.call('PEXPIRE', index, lifetime)
end

local function sweep(index)
    for _, member in ipairs(expired(index)) do
        redis.call('ZREM', index, member)
    end
end

local function sweep_user(user)
    for _, key in ipairs(expired('exp_' .. user)) do
        redis.call('HDEL', 'mid_' .. user, key)
        redis.call('ZREM', 'exp_' .. user, key)
    end
end
";

/// All scripts, with their hashes.
pub(super) struct Scripts {
    /// On the user's node: lists a session. ARGV: user, key (empty: made from the first sequence
    /// whose key the user does not have), server, lifetime, `count` or `keep`; `keep` raises the
    /// sequence to the one in the key. Returns sequence (0 for `keep`) and key.
    pub(super) list: Script,
    /// On the key's node: gives the key to this user and server.
    /// ARGV: key, user, server, lifetime, `take` or `keep`; `keep` leaves a key with another owner.
    /// Returns whether they own it now, and its former server and user.
    pub(super) claim: Script,
    /// On the key's node: frees the key if this user and server own it.
    /// ARGV: key, user, server. Returns whether they owned it.
    pub(super) release: Script,
    /// On the users' node: removes sessions from users' lists if they are still this server's.
    /// ARGV: server, lifetime, then pairs of user and key.
    pub(super) unlist: Script,
    /// On the users' node. ARGV: users. Returns for each its keys and servers, alternating.
    pub(super) read: Script,
    /// On the keys' node: frees keys of a server. ARGV: server, how many at most.
    /// Returns how many entries were examined, and the freed keys and their users, alternating.
    pub(super) take: Script,
    /// On the server's node: replaces room counts.
    /// ARGV: server, lifetime of the counts, lifetime of an index, then fields and documents; a
    /// field without one is removed.
    pub(super) rooms: Script,
    /// On any node. Returns the number of users, and the servers and the numbers of their sessions,
    /// alternating.
    pub(super) count: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let script = |body: &str| Script::new(&format!("{PRELUDE}{body}"));
        Self {
            list: script(LIST),
            claim: script(CLAIM),
            release: script(RELEASE),
            unlist: script(UNLIST),
            read: script(READ),
            take: script(TAKE),
            rooms: script(ROOMS),
            count: script(COUNT),
        }
    }
}

const LIST: &str = r"
local function count(user)
    local sequence = redis.call('INCR', 'seq_' .. user)
    if sequence > 2147483647 then
        sequence = 1
        redis.call('SET', 'seq_' .. user, sequence)
    end
    return sequence
end

local user, key, server, lifetime = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local sequence = 0
if ARGV[5] == 'count' then
    sequence = count(user)
    if key == '' then
        key = user .. '_' .. sequence
        while redis.call('HEXISTS', 'mid_' .. user, key) == 1 do
            sequence = count(user)
            key = user .. '_' .. sequence
        end
    end
else
    local number = tonumber(string.match(key, '_([1-9]%d*)$') or 0)
    if key == string.format('%s_%.0f', user, number) and number <= 2147483647
        and number > tonumber(redis.call('GET', 'seq_' .. user) or 0) then
        redis.call('SET', 'seq_' .. user, string.format('%.0f', number))
    end
end
redis.call('PEXPIRE', 'seq_' .. user, lifetime)
if user ~= '0' then
    redis.call('HSET', 'mid_' .. user, key, server)
    redis.call('PEXPIRE', 'mid_' .. user, lifetime)
    enlist('exp_' .. user, key, lifetime)
    sweep_user(user)
    enlist('comet_users', user, lifetime)
    sweep('comet_users')
end
return {sequence, key}
";

const CLAIM: &str = r"
local key, user, server, lifetime = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local former = redis.call('GET', 'key_' .. key)
local owner = redis.call('GET', 'own_' .. key)
if ARGV[5] == 'keep' and former and (former ~= server or (owner and owner ~= user)) then
    return {0, false, false}
end
if former and former ~= server then
    redis.call('ZREM', 'srv_' .. former, key)
end
redis.call('SET', 'key_' .. key, server, 'PX', lifetime)
redis.call('SET', 'own_' .. key, user, 'PX', lifetime)
enlist('srv_' .. server, key, lifetime)
sweep('srv_' .. server)
enlist('comet_servers', server, lifetime)
sweep('comet_servers')
return {1, former, owner}
";

const RELEASE: &str = r"
local key, user, server = ARGV[1], ARGV[2], ARGV[3]
local owner = redis.call('GET', 'own_' .. key)
if redis.call('GET', 'key_' .. key) ~= server or (owner and owner ~= user) then
    return 0
end
redis.call('DEL', 'key_' .. key, 'own_' .. key)
redis.call('ZREM', 'srv_' .. server, key)
return 1
";

const UNLIST: &str = r"
local server, lifetime = ARGV[1], ARGV[2]
for at = 3, #ARGV, 2 do
    local user, key = ARGV[at], ARGV[at + 1]
    if redis.call('HGET', 'mid_' .. user, key) == server then
        redis.call('HDEL', 'mid_' .. user, key)
        redis.call('ZREM', 'exp_' .. user, key)
    end
    sweep_user(user)
    if redis.call('EXISTS', 'mid_' .. user) == 0 then
        redis.call('ZREM', 'comet_users', user)
    end
    redis.call('PEXPIRE', 'seq_' .. user, lifetime)
end
";

const READ: &str = r"
local answer = {}
for at, user in ipairs(ARGV) do
    local late = {}
    for _, key in ipairs(redis.call('ZRANGEBYSCORE', 'exp_' .. user, '-inf', now)) do
        late[key] = true
    end
    local listed = redis.call('HGETALL', 'mid_' .. user)
    local live = {}
    for field = 1, #listed, 2 do
        if not late[listed[field]] then
            live[#live + 1] = listed[field]
            live[#live + 1] = listed[field + 1]
        end
    end
    answer[at] = live
end
return answer
";

const TAKE: &str = r"
local server, most = ARGV[1], tonumber(ARGV[2])
local keys = redis.call('ZRANGE', 'srv_' .. server, 0, most - 1)
local freed = {}
for _, key in ipairs(keys) do
    redis.call('ZREM', 'srv_' .. server, key)
    if redis.call('GET', 'key_' .. key) == server then
        freed[#freed + 1] = key
        freed[#freed + 1] = redis.call('GET', 'own_' .. key) or '0'
        redis.call('DEL', 'key_' .. key, 'own_' .. key)
    end
end
return {#keys, freed}
";

const ROOMS: &str = r"
local server = ARGV[1]
for at = 4, #ARGV, 2 do
    if ARGV[at + 1] == '' then
        redis.call('HDEL', 'ol_' .. server, ARGV[at])
    else
        redis.call('HSET', 'ol_' .. server, ARGV[at], ARGV[at + 1])
    end
end
redis.call('PEXPIRE', 'ol_' .. server, ARGV[2])
enlist('comet_servers', server, ARGV[3])
sweep('comet_servers')
";

const COUNT: &str = r"
local servers = redis.call('ZRANGEBYSCORE', 'comet_servers', after_now, '+inf')
local sessions = {}
for _, server in ipairs(servers) do
    sessions[#sessions + 1] = server
    sessions[#sessions + 1] = redis.call('ZCOUNT', 'srv_' .. server, after_now, '+inf')
end
return {redis.call('ZCOUNT', 'comet_users', after_now, '+inf'), sessions}
";
