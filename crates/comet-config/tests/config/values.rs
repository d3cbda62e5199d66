//! How values are read and written.

use std::path::Path;
use std::time::Duration;

use comet_config::{
    Algorithm, Change, CoalesceRule, Config, HistoryRule, LogLevel, SessionStore, SlowConsumer,
    Source, Steering, TakesEffect, TlsVersion, TokenKind, load,
};

use crate::{SHIPPED, good, machine};

#[test]
fn the_shipped_file_is_the_default() {
    assert_eq!(good(SHIPPED, &[]), Config::defaults(&machine(2)));
    assert_eq!(load(&Source::default(), &machine(2)).unwrap(), Config::defaults(&machine(2)));
}

#[test]
fn the_shipped_file_names_every_key() {
    let keys = |text: &str| -> Vec<String> {
        let document: toml::Table = text.parse().unwrap();
        let of = |(section, keys): (&String, &toml::Value)| {
            let keys = keys.as_table().unwrap().keys();
            keys.map(|key| format!("{section}.{key}")).collect::<Vec<_>>()
        };
        document.iter().flat_map(of).collect()
    };
    let shipped = keys(SHIPPED);
    assert_eq!(shipped, keys(&Config::defaults(&machine(2)).to_toml()));
    assert!(shipped.len() > 80, "{shipped:?}");
}

#[test]
fn the_effective_configuration_is_read_back() {
    let sets = [
        "server.id=\"a\"",
        "server.domain=\"a.example\"",
        "server.cores=\"1\"",
        "server.control_cores=\"0\"",
        "server.spin=\"50us\"",
        "tcp.sndbuf=1000",
        "tcp.bind=[\"127.0.0.1:0\", \"[::1]:0\"]",
        "push.grpc=[]",
        "push.http=[\"[::1]:0\"]",
        "protocol.slow_consumer=\"drop-oldest\"",
        "protocol.heartbeat=\"90s\"",
        "log.level=\"trace\"",
        "log.file=\"/var/log/comet.log\"",
        "server.pid_file=\"comet.pid\"",
        "server.drain_over=\"9s\"",
        "tcp.tls_bind=[\"127.0.0.1:8443\"]",
        "tcp.steering=\"cpu\"",
        "tcp.proxy_from=[\"10.0.0.0/8\", \"::1\"]",
        "tls.certificates=[\"a.pem\", \"b.pem\"]",
        "tls.keys=[\"a.key\", \"a.key\"]",
        "tls.min_version=\"1.3\"",
        "websocket.origins=[\"https://*.example.com\", \"http://localhost:3000\", \"null\"]",
        "logic.addrs=[\"logic:7170\", \"[::1]:7170\"]",
        "token.kind=\"jwt\"",
        "token.jwt_keys=[\"keys.jwks\"]",
        "token.jwt_algorithms=[\"EdDSA\"]",
        "token.issuer=\"https://accounts.example\"",
        "white_list.users=[7, -1, 7]",
        "white_list.file=\"white.log\"",
        "logic_server.comets=[\"a=127.0.0.1:8083\", \"b=b.example:8083\"]",
        "logic_server.nodes=[\"b=2001:db8::1*20\", \"a=a.example\"]",
        "logic_server.store=\"redis\"",
    ];
    let rules = "[[coalesce]]\nrooms = \"live://\"\n[[coalesce]]\noperations = [5, 1000]\n\
                 window = \"20ms\"\nkeep_latest = true\n";
    let coalescing = good(rules, &[]).coalesce.rules;
    assert_eq!(
        coalescing,
        [
            CoalesceRule {
                rooms: Some("live://".to_owned()),
                operations: Vec::new(),
                window: Duration::from_millis(50),
                keep_latest: false,
            },
            CoalesceRule {
                rooms: None,
                operations: vec![5, 1000],
                window: Duration::from_millis(20),
                keep_latest: true,
            },
        ]
    );
    let set = "coalesce.rules=[{ rooms = \"live://\" }, { operations = [5, 1000], window = \"20ms\", \
               keep_latest = true }]";
    assert_eq!(good("", &[set]).coalesce.rules, coalescing);
    let rules = &format!(
        "{rules}[[history]]\nrooms = \"live://\"\n[[history]]\nrooms = \"\"\npushes = 5\nage = \"1h\"\n"
    );
    let histories = good(rules, &[]).history.rules;
    let rule = HistoryRule {
        rooms: "live://".to_owned(),
        pushes: 100,
        bytes: 256 << 10,
        age: Duration::from_secs(300),
    };
    let all = HistoryRule {
        rooms: String::new(),
        pushes: 5,
        age: Duration::from_secs(3600),
        ..rule.clone()
    };
    assert_eq!(histories, [rule, all]);
    for config in [good("", &[]), good("", &sets), good(rules, &[])] {
        assert_eq!(good(&config.to_toml(), &[]), config);
    }
}

#[test]
fn values_are_read_in_their_units() {
    let config = good(
        "[tcp]\nsndbuf = 4096\nrcvbuf = \"4KiB\"\nkeepalive = true\n\
         [push]\nframe_max = \"64KiB\"\n\
         [protocol]\nhandshake_timeout = \"500ms\"\nheartbeat = \"5m\"\n\
         slow_consumer = \"close\"\noutbox_bytes = \"1MiB\"\n\
         [server]\nspin = \"20us\"\ndrain_timeout = \"1h\"\n\
         [log]\nlevel = \"warn\"\n",
        &[],
    );
    assert_eq!((config.tcp.sndbuf, config.tcp.rcvbuf), (4096, 4096));
    assert!(config.tcp.keepalive);
    assert_eq!(config.push.frame_max, 64 << 10);
    assert_eq!(config.protocol.handshake_timeout, Duration::from_millis(500));
    assert_eq!(config.protocol.heartbeat, Duration::from_secs(300));
    assert_eq!(config.protocol.slow_consumer, SlowConsumer::Close);
    assert_eq!(config.protocol.outbox_bytes, 1 << 20);
    assert_eq!(config.server.spin, Duration::from_micros(20));
    assert_eq!(config.server.drain_timeout, Duration::from_secs(3600));
    assert_eq!(config.log.level, LogLevel::Warn);
    assert_eq!(config.log.level.label(), "warn");
}

#[test]
fn lists_and_choices_are_read() {
    let config = good(
        "[tcp]\nproxy_from = [\"10.0.0.0/8\"]\nsteering = \"cpu\"\n\
         [websocket]\norigins = [\"HTTPS://*.Example.com:443\", \"null\"]\n\
         [tls]\ncertificates = [\"a.pem\"]\nkeys = [\"a.key\"]\nmin_version = \"1.3\"\n\
         [logic]\naddrs = [\"logic.example:7170\"]\n\
         [token]\nkind = \"jwt\"\njwt_keys = [\"k\"]\njwt_algorithms = [\"ES256\"]\naudience = \"a\"\n\
         [white_list]\nusers = [42, 7, 42]\nfile = \"white.log\"\n\
         [logic_server]\ncomets = [\"edge-1=127.0.0.1:8083\"]\nstore = \"redis\"\n\
         [log]\nfile = \"comet.log\"\n",
        &[],
    );
    assert!(config.tcp.proxy_from[0].contains("10.1.2.3".parse().unwrap()));
    assert_eq!(config.tcp.steering, Steering::Cpu);
    let origins: Vec<_> = config.websocket.origins.iter().map(ToString::to_string).collect();
    assert_eq!(origins, ["https://*.example.com", "null"]);
    assert_eq!(config.tls.certificates, [Path::new("a.pem")]);
    assert_eq!(config.tls.min_version, TlsVersion::V1_3);
    // A name, as it was written: it is not resolved.
    assert_eq!(config.logic.addrs, ["logic.example:7170"]);
    assert_eq!(config.token.kind, TokenKind::Jwt);
    assert_eq!(config.token.jwt_algorithms, [Algorithm::ES256]);
    assert_eq!((config.token.issuer, config.token.audience.as_deref()), (None, Some("a")));
    assert_eq!(config.white_list.users, [7, 42]);
    assert_eq!(config.white_list.file.as_deref(), Some(Path::new("white.log")));
    let comet = ("edge-1".to_owned(), "127.0.0.1:8083".to_owned());
    assert_eq!(config.logic_server.comets, [comet]);
    for (node, host, weight) in [
        ("edge-1=edge.example", "edge.example", 1),
        ("edge-1=192.0.2.7*10000", "192.0.2.7", 10_000),
        ("edge-1=[2001:db8::1]*3", "2001:db8::1", 3),
        ("edge-1=2001:db8::1", "2001:db8::1", 1),
    ] {
        let comets = "logic_server.comets=[\"edge-1=127.0.0.1:8083\"]";
        let config = good("", &[comets, &format!("logic_server.nodes=[{node:?}]")]);
        let expected = ("edge-1".to_owned(), host.to_owned(), weight);
        assert_eq!(config.logic_server.nodes, [expected], "{node}");
    }
    assert_eq!(config.logic_server.store, SessionStore::Redis);
    for redis in [
        "redis://127.0.0.1",
        "redis://store.example:6380",
        "redis://[::1]/7",
        "redis://[::1]:6379/",
        "redis://user:s:e@cret@store/1?protocol=resp3",
        "redis://:***@store:6379/1",
    ] {
        good("", &[&format!("logic_server.redis=[\"{redis}\"]")]);
    }
    assert_eq!(config.log.file.as_deref(), Some(Path::new("comet.log")));
    assert_eq!(config.server.pid_file, None);
}

#[test]
fn clients_know_the_server_by_its_id_unless_it_has_a_domain() {
    let check = |sets: &[&str], expected: [&str; 2]| {
        let server = good("", sets).server;
        assert_eq!([server.id, server.domain], expected);
    };
    check(&[], ["edge-1", "edge-1"]);
    check(&["server.id=\"a\""], ["a", "a"]);
    check(&["server.domain=\"push.example\""], ["edge-1", "push.example"]);
}

#[test]
fn changes_are_reported_by_key_with_both_values() {
    let check = |before: &[&str], now: &[&str], expected: &[[&str; 3]]| {
        let changes = good("", before).changes(&good("", now));
        let found: Vec<_> =
            changes.iter().map(|change| [change.key, &*change.from, &*change.to]).collect();
        assert_eq!(found, expected);
    };
    check(&["log.level=\"warn\""], &["log.level=\"warn\""], &[]);
    check(
        &["protocol.heartbeat=\"5m\""],
        &["protocol.heartbeat=\"90s\"", "log.file=\"a\"", "tcp.bind=[]", "tcp.nodelay=false"],
        &[
            ["log.file", "\"\"", "\"a\""],
            ["protocol.heartbeat", "\"5m\"", "\"90s\""],
            ["tcp.bind", "[\"0.0.0.0:8080\"]", "[]"],
            ["tcp.nodelay", "true", "false"],
        ],
    );
    // Also if only the password differs.
    let shown = "[\"redis://comet:***@store:6379/1\"]";
    check(
        &["logic_server.redis=[\"redis://comet:first@store:6379/1\"]"],
        &["logic_server.redis=[\"redis://comet:second@store:6379/1\"]"],
        &[["logic_server.redis", shown, shown]],
    );
    check(
        &["nats.user=\"u\""],
        &["nats.user=\"u\"", "nats.password=\"p4://hunter2\""],
        &[["nats.password", "\"\"", "\"***\""]],
    );
}

#[test]
fn keys_that_are_alive_are_adopted_and_the_others_wait() {
    let running = good("", &[]);
    let sets = ["log.level=\"warn\"", "tcp.backlog=1", "logic_server.expire=\"2h\""];
    let newer = good("", &sets);
    let adopted = running.adopt(&newer).unwrap();
    assert_eq!((adopted.log.level, adopted.tcp.backlog), (LogLevel::Warn, 4096));
    assert_eq!(adopted.logic_server.expire, Duration::from_secs(7200));
    let takes_effect = |change: &Change| (change.key, change.takes_effect);
    assert_eq!(
        running.changes(&newer).iter().map(takes_effect).collect::<Vec<_>>(),
        [
            ("log.level", TakesEffect::Alive),
            ("logic_server.expire", TakesEffect::InLogic),
            ("tcp.backlog", TakesEffect::AtStart),
        ]
    );
    // Good together, but not with the frame_max that stays.
    let newer = good("", &["push.frame_max=\"1KiB\"", "protocol.outbox_bytes=\"4KiB\""]);
    let mistakes = running.adopt(&newer).unwrap_err().to_string();
    assert!(mistakes.starts_with("protocol.outbox_bytes: no outbox would take"), "{mistakes}");
}

#[test]
fn the_last_lock_of_an_address_that_stays_is_not_given_up() {
    let tokens = "tokens=[\"a-token-of-sixteen-or-more\"]";
    for section in ["push", "monitor", "logic_server"] {
        let bind = if section == "monitor" { "stat" } else { "grpc" };
        let exposed = format!("{section}.{bind}=[\"0.0.0.0:1\"]");
        let running = good("", &[&exposed, &format!("{section}.{tokens}")]);
        let adopt = |sets: &[&str]| {
            let newer = good("", sets);
            match section {
                "logic_server" => running.adopt_in_logic(&newer),
                _ => running.adopt(&newer),
            }
        };
        for sets in [vec![], vec![&*exposed, &*format!("{section}.insecure=true")]] {
            let mistakes = adopt(&sets).unwrap_err().to_string();
            assert!(mistakes.contains("0.0.0.0:1 is not loopback"), "{sets:?}: {mistakes}");
        }
        adopt(&[&exposed, &format!("{section}.tokens=[\"another-token-of-the-same\"]")]).unwrap();
    }
}

#[test]
fn logic_may_move_but_is_elsewhere_or_here_from_the_start() {
    let check = |before: &str, after: &str, effect: TakesEffect| {
        let [running, newer] =
            [before, after].map(|addrs| good("", &[&format!("logic.addrs={addrs}")]));
        assert_eq!(running.changes(&newer)[0].takes_effect, effect, "{before} {after}");
        let adopted = running.adopt(&newer).unwrap();
        let expected = if effect == TakesEffect::Alive { &newer } else { &running };
        assert_eq!(adopted.logic.addrs, expected.logic.addrs);
    };
    check("[\"a:1\"]", "[\"b:1\", \"c:1\"]", TakesEffect::Alive);
    check("[\"a:1\"]", "[]", TakesEffect::AtStart);
    check("[]", "[\"a:1\"]", TakesEffect::AtStart);
}

#[test]
fn later_layers_overrule_earlier_ones() {
    let text = "[protocol]\nsvr_proto = 100\n[server]\ncores = \"0\"\n";
    assert_eq!(good(text, &[]).protocol.svr_proto, 100);
    let sets = ["protocol.svr_proto=200", "protocol.svr_proto = 300", "websocket.path=\"/x\""];
    let config = good(text, &sets);
    assert_eq!((config.protocol.svr_proto, config.websocket.path.as_str()), (300, "/x"));

    let sets = ["server.cores=\"0\"".to_owned()];
    let source = Source { sets: &sets, cores: Some("1"), ..Source::default() };
    assert_eq!(load(&source, &machine(2)).unwrap().server.cores, [1]);
}

#[test]
fn cores_are_all_but_control_where_there_are_enough() {
    let check = |cpus, cores: Option<&str>, control: Option<&str>, expected: &[usize]| {
        let source = Source { cores, control_cores: control, ..Source::default() };
        let config = load(&source, &machine(cpus)).unwrap();
        assert_eq!(config.server.cores, expected, "{cpus} {cores:?} {control:?}");
    };
    check(4, None, None, &[0, 1, 2, 3]);
    check(4, None, Some("3"), &[0, 1, 2]);
    check(4, Some("2-3"), Some("3"), &[2, 3]);
    check(4, None, Some("0-3"), &[0, 1, 2, 3]);
    check(2, None, Some("1"), &[0, 1]);
    check(1, None, Some("0"), &[0]);
}
