//! What is refused, and with which message.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use comet_config::{SECTIONS, Source, load, load_for_logic};

use crate::{SHIPPED, check_mistakes, good, machine, read};

#[test]
fn of_very_many_mistakes_the_first_ones_are_described() {
    let keys: String = (0..30_000).map(|index| format!("k{index} = 1\n")).collect();
    let mistakes = read(&format!("[server]\n{keys}"), &[]).unwrap_err();
    assert_eq!(mistakes.lines().count(), 101);
    assert_eq!(mistakes.lines().last(), Some("and 29900 more mistakes"));
}

#[test]
fn mistakes_in_lists_name_the_element() {
    let check = |set: &str, what: &str| {
        let key = set.split('=').next().unwrap();
        check_mistakes("", &[set], &[&format!("--set {key}{what}")]);
    };
    let network = "is not a network: write one like \"10.0.0.0/8\"";
    check("tcp.proxy_from=[\"x\"]", &format!("[0]: \"x\" {network}"));
    check(
        "tcp.proxy_from=[\"10.0.0.0/8\", \"10.1.2.3/8\"]",
        "[1]: \"10.1.2.3/8\" is an address inside 10.0.0.0/8: write that network",
    );
    let matches = "matches the origin of no browser:";
    let form = "write SCHEME://HOST or SCHEME://HOST:PORT, \"null\" or \"*\"";
    let page = "browsers send the scheme of the page: write http:// or https://";
    for (origin, what) in [("example.com", form), ("https://a/", form), ("wss://a", page)] {
        let set = format!("websocket.origins=[\"{origin}\"]");
        check(&set, &format!("[0]: \"{origin}\" {matches} {what}"));
    }
    check("tls.keys=[\"\"]", "[0]: \"\" is not the name of a file");
    check("log.file=\"a\\u0000b\"", ": \"a\\0b\" is not the name of a file");
    check(
        "logic.addrs=[\"logic\"]",
        "[0]: \"logic\" is not an address: use HOST:PORT, tls:HOST:PORT or unix:/PATH",
    );
    let unreachable = "names no port: nothing can be reached at 0";
    check("logic.addrs=[\"[::1]:0\"]", &format!("[0]: \"[::1]:0\" {unreachable}"));
    let form = "write SERVER-ID=HOST:PORT";
    for comet in ["a", "=h:1", "a b=h:1"] {
        let set = format!("logic_server.comets=[\"{comet}\"]");
        check(&set, &format!("[0]: \"{comet}\" is not a comet: {form}"));
    }
    check(
        "logic_server.comets=[\"a=h:1\", \"b=h\", \"c=h:1\"]",
        "[1]: \"h\" is not an address: use HOST:PORT, tls:HOST:PORT or unix:/PATH",
    );
    check("logic_server.comets=[\"a=h:1\", \"a=h:2\"]", "[1]: \"a\" is named twice");
    for (node, what) in [
        ("a", "\"a\" is not a node: write SERVER-ID=HOST*WEIGHT"),
        ("a=h:8080", "\"h:8080\" is not a host: use a name or an address, without a port"),
        ("a=", "\"\" is not a host: use a name or an address, without a port"),
        ("a=h*0", "\"a=h*0\": a weight is 1 to 10000"),
        ("a=h*10001", "\"a=h*10001\": a weight is 1 to 10000"),
        ("a=h*", "\"a=h*\": a weight is 1 to 10000"),
    ] {
        check(&format!("logic_server.nodes=[\"{node}\"]"), &format!("[0]: {what}"));
    }
    check("logic_server.nodes=[\"a=h\", \"a=i\"]", "[1]: \"a\" is named twice");
    check("logic_server.nodes=[\"a=h\"]", ": \"a\" is not in logic_server.comets");
    let form = "write redis://HOST:PORT";
    check(
        "logic_server.redis=[\"http://comet:secret@a\"]",
        &format!("[0]: \"http://comet:***@a\" is not a Redis address: {form}"),
    );
    for redis in [
        "127.0.0.1:6379",
        "redis://",
        "redis+sentinel://h",
        "redis+sentinel://h,/main",
        "redis+sentinel://h/main/x",
        "redis://h:x",
        "redis://h:",
        "redis://h:0",
        "redis://h:65536",
        "redis://::1",
        "redis://h/one",
        "redis:///1",
        "http://a",
    ] {
        let set = format!("logic_server.redis=[\"{redis}\"]");
        check(&set, &format!("[0]: \"{redis}\" is not a Redis address: {form}"));
    }
    check(
        "token.jwt_algorithms=[\"none\"]",
        ": unknown variant `none`, expected one of `HS256`, `RS256`, `ES256`, `EdDSA`",
    );
    check("white_list.users=[1, \"anna\"]", ": \"anna\" is not a whole number");
    check("tls.min_version=\"1.1\"", ": unknown variant `1.1`, expected `1.2` or `1.3`");
}

#[test]
fn mistakes_in_flags_name_the_flag() {
    let source = Source { cores: Some("99"), control_cores: Some("x"), ..Source::default() };
    let mistakes = load(&source, &machine(2)).unwrap_err();
    let lines = [
        "--control-cores \"x\" is not a list of CPUs: write one like \"0-3,6\"",
        "--cores 99: this machine has CPUs 0-1",
    ];
    assert_eq!(mistakes.iter().collect::<Vec<_>>(), lines);
}

#[test]
fn the_ends_of_every_range_are_taken_and_no_more() {
    let mut checked = BTreeSet::new();
    let mut check = |key: &'static str, least: &str, most: &str, beyond: &[&str]| {
        checked.insert(key);
        // The default outbox would be too small for the largest push, and the default push too
        // large for the smallest outbox.
        let room = match key {
            "push.frame_max" => "protocol.outbox_bytes=\"1GiB\"",
            _ => "push.frame_max=\"1KiB\"",
        };
        for value in [least, most] {
            good("", &[room, &format!("{key}={value}")]);
        }
        for value in beyond {
            let mistakes = read("", &[room, &format!("{key}={value}")]).expect_err(key);
            assert!(mistakes.starts_with(&format!("--set {key}: ")), "{mistakes}");
        }
    };
    check("server.spin", "\"0us\"", "\"1s\"", &["\"1001ms\""]);
    check("server.busy_poll", "\"0us\"", "\"1s\"", &["\"1001ms\""]);
    check("protocol.heartbeat_coalesce", "\"0s\"", "\"10s\"", &["\"10001ms\""]);
    check("server.drain_timeout", "\"0s\"", "\"1h\"", &["\"61m\""]);
    check("server.weight", "1", "10000", &["0", "10001"]);
    check("server.drain_delay", "\"0s\"", "\"1h\"", &["\"61m\""]);
    check("server.retry_after", "\"0s\"", "\"1h\"", &["\"61m\""]);
    check("server.drain_over", "\"0s\"", "\"9s\"", &["\"61m\"", "\"9001ms\""]);
    check("tcp.keepalive_idle", "\"1s\"", "\"9h\"", &["\"999ms\"", "\"1500ms\"", "\"10h\""]);
    check("tcp.keepalive_interval", "\"1s\"", "\"9h\"", &["\"0s\"", "\"1001ms\"", "\"10h\""]);
    check("tcp.keepalive_count", "1", "127", &["0", "128"]);
    check("tcp.sndbuf", "0", "\"1GiB\"", &["-1", "1073741825"]);
    check("tcp.rcvbuf", "0", "\"1GiB\"", &["-1", "1073741825"]);
    check("tcp.backlog", "1", "65535", &["0", "65536"]);
    check("websocket.head_max", "1024", "65536", &["1023", "65537"]);
    check("websocket.deflate_min", "0", "1048576", &["-1", "1048577"]);
    check("websocket.deflate_level", "1", "9", &["0", "10"]);
    check("push.frame_max", "1024", "\"64MiB\"", &["1023", "\"65MiB\""]);
    check("push.keys_max", "1", "1000000", &["0", "1000001"]);
    check("push.timeout", "\"100ms\"", "\"1h\"", &["\"99ms\"", "\"2h\""]);
    check("protocol.handshake_timeout", "\"100ms\"", "\"1h\"", &["\"99ms\"", "\"2h\""]);
    check("protocol.write_timeout", "\"100ms\"", "\"1h\"", &["\"99ms\"", "\"2h\""]);
    check("protocol.heartbeat", "\"1s\"", "\"24h\"", &["\"999ms\"", "\"25h\""]);
    check("protocol.linger", "\"100ms\"", "\"1h\"", &["\"99ms\"", "\"2h\""]);
    check("protocol.body_max", "1", "\"1MiB\"", &["0", "1048577"]);
    check("protocol.svr_proto", "1", "65535", &["0", "65536", "9223372036854775807"]);
    check("protocol.outbox_bytes", "2048", "\"1GiB\"", &["2047", "1073741825"]);
    check("protocol.cli_proto", "1", "65535", &["0", "65536", "-1"]);
    check("resume.window", "\"0s\"", "\"1h\"", &["\"61m\""]);
    check("resume.messages", "1", "65535", &["0", "65536"]);
    check("resume.bytes", "1024", "\"1GiB\"", &["1023", "1073741825"]);
    check("resume.memory", "1048576", "1099511627776", &["1048575", "1099511627777"]);
    check("clients.rooms", "1", "1024", &["0", "1025"]);
    check("clients.user_sessions", "1", "1048576", &["0", "1048577"]);
    check("limits.connections", "0", "16777216", &["-1", "16777217"]);
    check("limits.mesh_inbox", "16", "1048576", &["15", "1048577"]);
    check("limits.mesh_backlog", "16", "16777216", &["15", "16777217"]);
    check("limits.recv_buffers", "16", "32768", &["8", "17", "65536", "-9223372036854775808"]);
    check("limits.memory", "0", "1099511627776", &["1099511627777"]);
    check("limits.outbox_memory", "1048576", "1099511627776", &["1048575", "1099511627777"]);
    check("limits.recv_buffer_size", "256", "65536", &["255", "65537"]);
    check("limits.ring_entries", "16", "32768", &["8", "17", "65536"]);
    for key in ["clients.per_address", "clients.per_subnet", "clients.accepts"] {
        check(key, "0", "16777216", &["-1", "16777217"]);
    }
    check("clients.subnet_v4", "0", "32", &["-1", "33"]);
    check("clients.subnet_v6", "0", "128", &["-1", "129"]);
    check("clients.handshakes", "1", "16777216", &["0", "16777217"]);
    for key in ["clients.frames", "clients.room_changes"] {
        check(key, "0", "1048576", &["-1", "1048577"]);
    }
    check("clients.bytes", "0", "\"1GiB\"", &["-1", "1073741825"]);
    check("bucket.count", "1", "1048576", &["0", "1048577"]);
    check("bucket.user_memory", "\"0s\"", "\"24h\"", &["\"25h\""]);
    check("logic.timeout", "\"100ms\"", "\"1m\"", &["\"99ms\"", "\"61s\""]);
    check("logic.calls", "1", "1048576", &["0", "1048577"]);
    check("logic.ping", "\"100ms\"", "\"1m\"", &["\"99ms\"", "\"61s\""]);
    check("logic.renew", "\"100ms\"", "\"2m\"", &["\"99ms\"", "\"121s\""]);
    check("logic.heartbeat_min", "\"100ms\"", "\"30m\"", &["\"99ms\"", "\"31m\""]);
    check("logic.heartbeat_max", "\"10m\"", "\"24h\"", &["\"9m\"", "\"25h\""]);
    check("logic.retry_after", "\"0s\"", "\"1h\"", &["\"61m\""]);
    check("logic_server.heartbeat", "\"1s\"", "\"24h\"", &["\"999ms\"", "\"25h\""]);
    good("", &["logic_server.heartbeat=\"0s\""]);
    check("logic_server.expire", "\"1s\"", "\"24h\"", &["\"999ms\"", "\"25h\""]);
    check("token.jwks_refresh", "\"10s\"", "\"24h\"", &["\"9s\"", "\"25h\""]);
    let claim = format!("\"{}\"", "x".repeat(255));
    let beyond = format!("\"{}\"", "x".repeat(256));
    for key in ["token.mid", "token.key", "token.room", "token.rooms", "token.accepts"] {
        check(key, "\"x\"", &claim, &[&beyond, "\"\"", "\"a b\""]);
    }
    let longest = format!("\"/{}\"", "x".repeat(255));
    let beyond = format!("\"/{}\"", "x".repeat(256));
    check(
        "websocket.path",
        "\"/\"",
        &longest,
        &[&beyond, "\"\"", "\"/a?b\"", "\"/a b\"", "\"/é\""],
    );
    let (longest, beyond) =
        (format!("\"{}\"", "x".repeat(255)), format!("\"{}\"", "x".repeat(256)));
    let discovery = ["discovery.region", "discovery.zone", "discovery.env"];
    for key in ["server.id", "server.domain"].into_iter().chain(discovery) {
        check(key, "\"\"", &longest, &[&beyond, "\"a b\"", "\"a\\nb\""]);
    }
    let bad_subjects = [&*beyond, "\"\"", "\"a..b\"", "\"a.*\"", "\"a.>\"", "\"a b\""];
    check("nats.prefix", "\"a\"", &longest, &bad_subjects);
    let window = |window: &str| format!("[{{ rooms = \"\", window = \"{window}\" }}]");
    let many = format!("[{}]", "{ rooms = \"\" },".repeat(65));
    check("coalesce.rules", &window("1ms"), &window("1s"), &[&many]);
    let history = |key: &str, value: &str| format!("[{{ rooms = \"\", {key} = {value} }}]");
    for (key, least, most, beyond) in [
        ("pushes", "1", "100000", "100001"),
        ("bytes", "\"1KiB\"", "\"1MiB\"", "1048577"),
        ("age", "\"1s\"", "\"24h\"", "\"1500500us\""),
    ] {
        let rule = |value| history(key, value);
        check("history.rules", &rule(least), &rule(most), &[&many]);
        let mistakes = read("", &[&format!("history.rules={}", rule(beyond))]).expect_err(key);
        assert!(mistakes.starts_with(&format!("--set history.rules[0]: {key}: ")), "{mistakes}");
    }
    for (key, least, most, beyond) in [
        ("operation", "25", "2147483647", "2147483648"),
        ("window", "\"100ms\"", "\"1m\"", "\"1500500us\""),
        ("names", "0", "100", "101"),
    ] {
        let rule = |value: &str| match key {
            "operation" => format!("[{{ rooms = \"\", operation = {value} }}]"),
            _ => format!("[{{ rooms = \"\", operation = 25, {key} = {value} }}]"),
        };
        let many = format!("[{}]", "{ rooms = \"\", operation = 25 },".repeat(65));
        check("presence.rules", &rule(least), &rule(most), &[&many]);
        let mistakes = read("", &[&format!("presence.rules={}", rule(beyond))]).expect_err(key);
        assert!(mistakes.starts_with(&format!("--set presence.rules[0]: {key}: ")), "{mistakes}");
    }
    check("nats.history_bytes", "\"1MiB\"", "\"1GiB\"", &["\"1KiB\""]);
    check("nats.history_replicas", "1", "5", &["0", "6"]);
    check("limits.history_memory", "\"1MiB\"", "\"1GiB\"", &["\"1KiB\""]);
    let users = |count: usize| format!("{:?}", (0..count).collect::<Vec<_>>());
    let log = ["white_list.file=\"trace.log\""];
    good("", &[log[0], &format!("white_list.users={}", users(65_536))]);
    let set = format!("white_list.users={}", users(65_537));
    check_mistakes(
        "",
        &[log[0], &set],
        &["--set white_list.users: 65537 users are too many: up to 65536"],
    );
    checked.insert("white_list.users");
    let keys = SECTIONS.iter().flat_map(|section| section.keys);
    let limited = keys.filter(|key| !key.limits().is_empty()).map(|key| key.path);
    assert_eq!(checked, limited.collect());
}

#[test]
fn all_mistakes_are_reported_at_once() {
    check_mistakes(
        "[tcp]\n\
         bind = [\"0.0.0.0:8080\", \"0.0.0.0:80800\", \"x\"]\n\
         bnd = 5\n\
         backlog = 0\n\
         keepalive = 1\n\
         [websocket]\n\
         path = \"sub\"\n\
         head_max = \"8KB\"\n\
         [weird]\n\
         a = 1\n\
         b = 2\n\
         [protocol]\n\
         heartbeat = \"5x\"\n\
         write_timeout = 5\n\
         svr_proto = 70000\n\
         slow_consumer = \"dropp\"\n\
         linger = \"1ms\"\n\
         [limits]\n\
         ring_entries = 1000\n\
         recv_buffers = \"many\"\n\
         [logic]\n\
         addrs = [\"127.0.0.1:7170\", \"logic\"]\n",
        &["tcp.nodelay=maybe", "push.keys_max=0", "push.keys=1", "log.level=\"loud\""],
        &[
            "comet.toml:2:25: tcp.bind[1]: \"0.0.0.0:80800\" is not an address: use HOST:PORT",
            "comet.toml:2:42: tcp.bind[2]: \"x\" is not an address: use HOST:PORT",
            "comet.toml:3:1: tcp.bnd: unknown key `bnd`, expected one of `bind`, \
             `tls_bind`, `sndbuf`, `rcvbuf`, `keepalive`, `keepalive_idle`, `keepalive_interval`, \
             `keepalive_count`, `nodelay`, `backlog`, `steering`, `proxy_from`",
            "comet.toml:4:11: tcp.backlog: 0 is out of range: 1 to 65535",
            "comet.toml:5:13: tcp.keepalive: invalid type: integer `1`, expected a boolean",
            "comet.toml:7:8: websocket.path: \"sub\" is not a path: / and up to 255 printable \
             characters without space, ? and #",
            "comet.toml:8:12: websocket.head_max: \"8KB\" is not a size: use bytes, or a number \
             and KiB, MiB or GiB, like \"4KiB\"",
            "comet.toml:9:2: weird: unknown section `weird`, expected one of `server`, `tcp`, \
             `websocket`, `tls`, `push`, `monitor`, `api_tls`, `protocol`, `coalesce`, `history`, `resume`, `presence`, `limits`, `clients`, `bucket`, `logic`, \
             `discovery`, `nats`, `trace`, `token`, `white_list`, `logic_server`, `log`",
            "comet.toml:13:13: protocol.heartbeat: \"5x\" is not a duration: use a number and us, \
             ms, s, m or h, like \"500ms\"",
            "comet.toml:14:17: protocol.write_timeout: 5 is not a duration: use a number and us, \
             ms, s, m or h, like \"500ms\"",
            "comet.toml:15:13: protocol.svr_proto: 70000 is out of range: 1 to 65535",
            "comet.toml:16:17: protocol.slow_consumer: unknown variant `dropp`, expected one of \
             `drop-newest`, `drop-oldest`, `close`",
            "comet.toml:17:10: protocol.linger: 1ms is out of range: 100ms to 1h",
            "comet.toml:19:16: limits.ring_entries: 1000 is not a power of two from 16 to 32768",
            "comet.toml:20:16: limits.recv_buffers: \"many\" is not a whole number",
            "comet.toml:22:28: logic.addrs[1]: \"logic\" is not an address: use HOST:PORT, tls:HOST:PORT or unix:/PATH",
            "--set tcp.nodelay: maybe is not a TOML value (string values must be quoted, expected \
             literal string): text needs quotes, --set 'tcp.nodelay=\"maybe\"'",
            "--set push.keys_max: 0 is out of range: 1 to 1000000",
            "--set push.keys: unknown key `keys`, expected one of `grpc`, `http`, `frames`, `tokens`, \
             `insecure`, `frame_max`, `keys_max`, `timeout`, `access_log`",
            "--set log.level: unknown variant `loud`, expected one of `off`, `error`, `warn`, \
             `info`, `debug`, `trace`",
        ],
    );
}

#[test]
fn a_section_is_a_table() {
    check_mistakes(
        "push = 5\nbind = []\n[[tcp]]\nbind = []\n[websocket.bind]\nx = 1\n",
        &[],
        &[
            "comet.toml:1:8: push: this is a section: write [push] and its keys below",
            "comet.toml:2:1: bind: unknown section `bind`, expected one of `server`, `tcp`, \
             `websocket`, `tls`, `push`, `monitor`, `api_tls`, `protocol`, `coalesce`, `history`, `resume`, `presence`, `limits`, `clients`, `bucket`, `logic`, \
             `discovery`, `nats`, `trace`, `token`, `white_list`, `logic_server`, `log`",
            "comet.toml:3:1: tcp: this is a section: write [tcp] and its keys below",
            "comet.toml:5:1: websocket.bind: invalid type: map, expected a sequence",
        ],
    );
}

#[test]
fn text_that_is_not_toml_is_reported_with_its_line() {
    check_mistakes(
        "[tcp]\nbacklog = 0\nnodelay = yes\n[push]\nkeys_max 5\n",
        &["tcp.backlog", "push.frame_max=\"4MiB\""],
        &[
            "comet.toml:2:11: tcp.backlog: 0 is out of range: 1 to 65535",
            "comet.toml:3:11: not TOML: string values must be quoted, expected literal string",
            "comet.toml:5:10: not TOML: key with no value, expected `=`",
            "--set tcp.backlog: write it as section.key=value",
        ],
    );
}

#[test]
fn a_set_is_a_key_and_a_value() {
    let form = "write it as section.key=value";
    // The value may be a secret.
    for (set, shown) in [
        ("tcp", "tcp"),
        ("tcp.bind", "tcp.bind"),
        ("bind=[]", "bind=***"),
        ("=5", "=***"),
        (".=5", ".=***"),
        ("tcp.=5", "tcp.=***"),
        ("a.b.c=5", "a.b.c=***"),
        ("tcp.b ind=5", "tcp.b***"),
        ("nats_password=hunter2", "nats_password=***"),
    ] {
        check_mistakes("", &[set], &[&format!("--set {shown}: {form}")]);
    }
    check_mistakes(
        "",
        &["weird.a=x"],
        &["--set weird: unknown section `weird`, expected one of `server`, `tcp`, `websocket`, \
          `tls`, `push`, `monitor`, `api_tls`, `protocol`, `coalesce`, `history`, `resume`, `presence`, `limits`, `clients`, `bucket`, `logic`, `discovery`, `nats`, `trace`, `token`, `white_list`, \
          `logic_server`, `log`"],
    );
    check_mistakes(
        "",
        &["websocket.path=/x"],
        &["--set websocket.path: /x is not a TOML value (string values must be quoted, expected \
         literal string): text needs quotes, --set 'websocket.path=\"/x\"'"],
    );
    check_mistakes(
        "",
        &["tcp.backlog=1\n2"],
        &[
            "--set tcp.backlog: 1 2 is not a TOML value (unexpected content, expected nothing): text \
           needs quotes, --set 'tcp.backlog=\"1 2\"'",
        ],
    );
}

#[test]
fn a_torn_file_is_read_or_refused() {
    for end in (0..SHIPPED.len()).step_by(17) {
        let text = &SHIPPED[..SHIPPED.floor_char_boundary(end)];
        match read(text, &[]) {
            Ok(config) => assert_eq!(good(&config.to_toml(), &[]), config, "{text}"),
            Err(mistakes) => assert!(mistakes.starts_with("comet.toml:"), "{mistakes}"),
        }
    }
}

#[test]
fn only_one_kind_of_credentials_for_nats_is_accepted() {
    check_mistakes(
        "[nats]\n\
         servers = [\"nats://a\", \"tls://b:4222\", \"c:4222\", \"http://d\"]\n\
         user = \"u\"\n\
         nkey = \"SUx\"\n",
        &[],
        &[
            "comet.toml:2:40: nats.servers[2]: \"c:4222\" is no address of NATS: write nats://HOST:PORT or tls://HOST:PORT",
            "comet.toml:2:50: nats.servers[3]: \"http://d\" is no address of NATS: write nats://HOST:PORT or tls://HOST:PORT",
            "comet.toml:4:8: nats.nkey: nats.user is given too: one of them is enough",
        ],
    );
    check_mistakes(
        "[nats]\npassword = \"p\"\n",
        &[],
        &["comet.toml:2:12: nats.password: needs nats.user"],
    );
}

/// Queries have API keys, and users have passwords. The sentences go to logs.
#[test]
fn urls_in_mistakes_are_shown_without_secrets() {
    check_mistakes(
        "[trace]\notlp = \"https://u:hunter2@o.example/otlp?api-key=hunter2\"\n\n\
         [token]\njwks_urls = [\"http://issuer.example/keys?key=hunter2\"]\n",
        &[],
        &[
            "comet.toml:2:8: trace.otlp: \"https://u:***@o.example/otlp?***\" is not the URL of a server: write http://HOST:PORT or https://HOST:PORT",
            "comet.toml:5:14: token.jwks_urls[0]: \"http://issuer.example/keys?***\" is not an address of keys: write https://HOST/PATH, or http:// and a loopback address",
        ],
    );
}

/// The CPUs and names of comets are those of other hosts. Its own names have to resolve here.
#[test]
fn comet_logic_reads_the_file_of_another_host() {
    let text = "[server]\ncores = \"0-31\"\ncontrol_cores = \"31\"\n\
                [tcp]\nbind = [\"edge.invalid:81\", \"edge-too.invalid:81\"]\n\
                [push]\ngrpc = [\"edge.invalid:8083\"]\n\
                [monitor]\nstat = [\"edge\"]\n\
                [logic_server]\ngrpc = [\"logic.invalid:7170\"]\n";
    let load = |text| {
        let source = Source { file: Some((Path::new("comet.toml"), text)), ..Source::default() };
        load_for_logic(&source, &machine(2)).map_err(|mistakes| mistakes.to_string())
    };
    let mistakes = load(text).unwrap_err();
    let (first, second) = mistakes.split_once('\n').unwrap();
    assert_eq!(
        first,
        "comet.toml:9:9: monitor.stat[0]: \"edge\" is not an address: use HOST:PORT, tls:HOST:PORT or unix:/PATH"
    );
    let begin = "comet.toml:11:9: logic_server.grpc[0]: \"logic.invalid:7170\" has no address";
    assert!(second.starts_with(begin), "{second}");

    let text = text.replace("\"edge\"", "").replace("logic.invalid", "127.0.0.1");
    let config = load(&text).unwrap();
    let ports: Vec<u16> = config.tcp.bind.iter().map(SocketAddr::port).collect();
    assert_eq!((ports, config.server.cores.as_slice()), (vec![81, 81], &[0, 1][..]));
}
