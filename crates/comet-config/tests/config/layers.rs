//! Which layer a value comes from: the environment between the file and the flags, and secrets in files.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use comet_config::{Config, LogLevel, SECTIONS, Source, load, load_for_logic};

use crate::{check_mistakes, good, machine};

type Variable<'a> = (&'a str, &'a str);

fn read(text: &str, environment: &[Variable<'_>], sets: &[&str]) -> Result<Config, String> {
    let of = |(name, value): &Variable<'_>| (OsString::from(name), OsString::from(value));
    let environment: Vec<_> = environment.iter().map(of).collect();
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    let source = Source {
        file: Some((Path::new("comet.toml"), text)),
        environment: &environment,
        sets: &sets,
        read_secret: Some(secret),
        ..Source::default()
    };
    load(&source, &machine(2)).map_err(|mistakes| mistakes.to_string())
}

/// A substitute for the file system.
fn secret(path: &Path) -> io::Result<String> {
    match path.to_str().unwrap() {
        "/run/secrets/redis" => Ok("redis://comet:pass@store:6379/1\n".to_owned()),
        "/run/secrets/crlf" => Ok("redis://comet:pass@store/2\r\n".to_owned()),
        "/run/secrets/two" => Ok("redis://a\nredis://b\n".to_owned()),
        "/run/secrets/other" => Ok("hunter2\n".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn read_good(text: &str, environment: &[Variable<'_>], sets: &[&str]) -> Config {
    read(text, environment, sets).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

#[track_caller]
fn check(text: &str, environment: &[Variable<'_>], sets: &[&str], lines: &[&str]) {
    let mistakes = read(text, environment, sets).expect_err("a mistake");
    assert_eq!(mistakes.lines().collect::<Vec<_>>(), lines);
}

#[test]
fn every_key_can_be_set_in_the_environment() {
    let default = good("", &[]);
    for key in SECTIONS.iter().flat_map(|section| section.keys) {
        assert_eq!(read_good("", &[(&key.variable(), key.default)], &[]), default, "{}", key.path);
    }
}

#[test]
fn the_environment_overrules_the_file_and_flags_overrule_both() {
    let text =
        "[protocol]\nsvr_proto = 1\ncli_proto = 1\nlinger = \"1s\"\n[server]\ncores = \"0\"\n";
    let environment = [
        ("COMET_PROTOCOL_CLI_PROTO", "2"),
        ("COMET_PROTOCOL_LINGER", "2s"),
        ("COMET_SERVER_CORES", "1"),
        ("PATH", "/bin"),
        ("COMET_CONFIG", "comet.toml"),
    ];
    let config = read_good(text, &environment, &["protocol.linger=\"3s\""]);
    let protocol = &config.protocol;
    assert_eq!((protocol.svr_proto, protocol.cli_proto), (1, 2));
    assert_eq!((protocol.linger, &config.server.cores[..]), (Duration::from_secs(3), &[1][..]));
    // A good value does not hide a mistake below it, as with --set.
    let line = "comet.toml:2:10: protocol.linger: 1 is not a duration: use a number and us, ms, s, m \
                or h, like \"500ms\"";
    check("[protocol]\nlinger = 1\n", &environment, &[], &[line]);
}

#[test]
fn text_in_the_environment_needs_no_quotes() {
    let environment = [
        ("COMET_SERVER_ID", "7"),
        ("COMET_SERVER_DOMAIN", "\"push.example\""),
        ("COMET_SERVER_CORES", "0-1"),
        ("COMET_TCP_BIND", " [\"127.0.0.1:81\", \"[::1]:81\"] "),
        ("COMET_TCP_SNDBUF", "4KiB"),
        ("COMET_TCP_RCVBUF", "4096"),
        ("COMET_TCP_NODELAY", "false"),
        ("COMET_WEBSOCKET_PATH", "/push"),
        ("COMET_PROTOCOL_HEARTBEAT", "90s"),
        ("COMET_PROTOCOL_SVR_PROTO", "7"),
        ("COMET_TOKEN_ISSUER", "'true'"),
        ("COMET_TOKEN_AUDIENCE", "true"),
        ("COMET_WHITE_LIST_FILE", "/var/log/trace.log"),
        ("COMET_LOG_LEVEL", "debug"),
        ("COMET_LOG_FILE", ""),
    ];
    let config = read_good("", &environment, &[]);
    assert_eq!((&*config.server.id, &*config.server.domain), ("7", "push.example"));
    assert_eq!(config.server.cores, [0, 1]);
    assert_eq!(config.tcp.bind, ["127.0.0.1:81", "[::1]:81"].map(|text| text.parse().unwrap()));
    assert_eq!((config.tcp.sndbuf, config.tcp.rcvbuf, config.tcp.nodelay), (4096, 4096, false));
    assert_eq!(config.websocket.path, "/push");
    assert_eq!(config.protocol.heartbeat, Duration::from_secs(90));
    assert_eq!(config.protocol.svr_proto, 7);
    let [issuer, audience] = [config.token.issuer, config.token.audience];
    assert_eq!([issuer.as_deref(), audience.as_deref()], [Some("true"); 2]);
    assert_eq!(config.white_list.file.as_deref(), Some(Path::new("/var/log/trace.log")));
    assert_eq!((config.log.level, config.log.file), (LogLevel::Debug, None));
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    check(
        "[tcp]\nbacklog = 0\n",
        &[
            ("COMET_TCP_BIND", "0.0.0.0:8080"),
            ("COMET_LIMITS_RING_ENTRIES", "1000"),
            ("COMET_LOGIC_ADDRS", "[\"logic:7170\", \"logic\"]"),
            ("COMET_LOG_LEVEL", "loud"),
            ("COMET_TCP_KEEPALIVE", "1"),
            ("COMET_TPC_BIND", "[]"),
            ("COMET_PUSH_GPRC", "[]"),
        ],
        &["push.keys_max=0"],
        &[
            "comet.toml:2:11: tcp.backlog: 0 is out of range: 1 to 65535",
            "COMET_LIMITS_RING_ENTRIES: limits.ring_entries: 1000 is not a power of two from 16 to \
             32768",
            "COMET_LOGIC_ADDRS: logic.addrs[1]: \"logic\" is not an address: use HOST:PORT, tls:HOST:PORT or unix:/PATH",
            "COMET_LOG_LEVEL: log.level: unknown variant `loud`, expected one of `off`, `error`, \
             `warn`, `info`, `debug`, `trace`",
            "COMET_PUSH_GPRC: sets no key: did you mean COMET_PUSH_GRPC?",
            "COMET_TCP_BIND: tcp.bind: 0.0.0.0:8080 is not a TOML value (invalid float, expected \
             nothing); the default is [\"0.0.0.0:8080\"]",
            "COMET_TCP_KEEPALIVE: tcp.keepalive: invalid type: integer `1`, expected a boolean",
            "COMET_TPC_BIND: sets no key: did you mean COMET_TCP_BIND?",
            "--set push.keys_max: 0 is out of range: 1 to 1000000",
        ],
    );
    let value = OsStr::from_bytes(b"/tmp/\xff").to_owned();
    let environment =
        [("COMET_LOG_FILE".into(), value), (OsStr::from_bytes(b"\xff").into(), "".into())];
    let source = Source { environment: &environment, ..Source::default() };
    let mistakes = load(&source, &machine(2)).unwrap_err().to_string();
    assert_eq!(mistakes, "COMET_LOG_FILE: log.file: the value is not UTF-8");
}

#[test]
fn a_secret_may_be_in_a_file() {
    let secret = "{ file = \"/run/secrets/redis\" }";
    let list = format!("[\"redis://h\", {secret}, {{ file = \"/run/secrets/crlf\" }}]");
    let check = |config: Config| {
        let [plain, lf, crlf] = config.logic_server.redis.try_into().unwrap();
        assert_eq!(plain, "redis://h");
        assert_eq!(lf, "redis://comet:pass@store:6379/1");
        assert_eq!(crlf, "redis://comet:pass@store/2");
    };
    check(read_good(&format!("[logic_server]\nredis = {list}\n"), &[], &[]));
    check(read_good("", &[("COMET_LOGIC_SERVER_REDIS", &list)], &[]));
    check(read_good("", &[], &[&format!("logic_server.redis={list}")]));
    let printed = read_good("", &[("COMET_LOGIC_SERVER_REDIS", &list)], &[]).to_toml();
    assert!(printed.contains("\"redis://comet:***@store:6379/1\""), "{printed}");
    assert!(!printed.contains(":pass"), "{printed}");
}

#[test]
fn mistakes_about_secrets_name_key_and_file_and_no_secret() {
    let redis = |list: &str| format!("[logic_server]\nredis = [{list}]\n");
    check(
        &redis("\"redis://h\", { file = \"/nonexistent\" }, { file = \"/gone\" }"),
        &[],
        &[],
        &[
            "comet.toml:2:23: logic_server.redis[1]: cannot read /nonexistent: entity not found",
            "comet.toml:2:50: logic_server.redis[2]: cannot read /gone: entity not found",
        ],
    );
    let form = "is not a Redis address: write redis://HOST:PORT";
    check(
        &redis("{ file = \"/run/secrets/other\" }, { file = \"/run/secrets/two\" }"),
        &[],
        &[],
        &[
            &format!(
                "comet.toml:2:10: logic_server.redis[0]: the text of /run/secrets/other {form}"
            ),
            &format!("comet.toml:2:43: logic_server.redis[1]: the text of /run/secrets/two {form}"),
        ],
    );
    let map = "invalid type: map, expected a string";
    for other in ["{ path = \"/run/secrets/redis\" }", "{ file = 5 }", "{ file = \"a\", b = 1 }"] {
        let line = format!("comet.toml:2:10: logic_server.redis: {map}");
        check(&redis(other), &[], &[], &[&line]);
    }
    // No part of text that is not TOML is shown, either.
    let fault = "*** is not a TOML value (string values must be quoted, expected literal \
                 string); the default is \
                 [\"redis://127.0.0.1:6379\"]";
    let url = "redis://:pass@h";
    check(
        "",
        &[("COMET_LOGIC_SERVER_REDIS", url)],
        &[],
        &[&format!("COMET_LOGIC_SERVER_REDIS: logic_server.redis: {fault}")],
    );
    let read = read("", &[], &[&format!("logic_server.redis={url}")]).unwrap_err();
    assert!(read.starts_with("--set logic_server.redis: ***") && !read.contains("pass"), "{read}");
    let string = "invalid type: string, expected a sequence";
    check(
        &format!("[logic_server]\nredis = \"{url}\"\n"),
        &[],
        &[],
        &[&format!("comet.toml:2:9: logic_server.redis: {string}")],
    );
    // Keys that are no secrets cannot be read from a file of their own.
    check(
        "[log]\nfile = { file = \"/run/secrets/other\" }\n",
        &[],
        &[],
        &["comet.toml:2:8: log.file: invalid type: map, expected a string"],
    );
    check_mistakes(
        "[logic_server]\nredis = [{ file = \"/run/secrets/redis\" }]\n",
        &[],
        &[
            "comet.toml:2:10: logic_server.redis[0]: cannot read /run/secrets/redis: no files are read \
           here",
        ],
    );
}

#[test]
fn comet_logic_reads_the_same_layers() {
    let environment = [
        ("COMET_SERVER_CORES".into(), "0-99".into()),
        ("COMET_LOGIC_SERVER_REDIS".into(), "[{ file = \"/run/secrets/redis\" }]".into()),
    ];
    let source =
        Source { environment: &environment, read_secret: Some(secret), ..Source::default() };
    let config = load_for_logic(&source, &machine(2)).unwrap();
    assert_eq!(config.logic_server.redis, ["redis://comet:pass@store:6379/1"]);
}

#[test]
fn a_password_is_shown_nowhere_wherever_it_was_written() {
    let url = "redis://comet:hunter2@store:6379";
    for set in [
        format!("redis={url}"),
        format!("{url}=1"),
        format!("logic_server.redis={url}"),
        format!("logic_server.redis=\"{url}\""),
        format!("logic_server.redis=[{{ file = \"{url}\" }}]"),
        format!("logic_server.redis=[\"{url}/x\"]"),
        format!("logic_server.redi=\"{url}\""),
        format!("logic_server.\"{url}\"=1"),
        format!("logic.addrs=[\"{url}\"]"),
        "logic.addrs=\"comet:hunter2@store:6379\"".to_owned(),
        "logic_server.comets=[\"id=comet:hunter2@store:6379\"]".to_owned(),
        format!("token.kind=\"{url}\""),
        format!("tcp.bind=[\"{url}\"]"),
        format!("tcp.backlog=\"{url}\""),
    ] {
        let mistakes = read("", &[], &[&set]).expect_err(&set);
        assert!(!mistakes.contains("hunter2"), "{mistakes}");
    }
    for set in [
        "nats_password=hunter2",
        "nats.password:hunter2",
        "nats.password hunter2",
        "logic_server.redis=[\"redis://h/one?password=hunter2\"]",
        "logic_server.redis=[\"redis://h/one?password=p@hunter2\"]",
    ] {
        let mistakes = read("", &[], &[set]).expect_err(set);
        assert!(!mistakes.contains("hunter2"), "{mistakes}");
    }
    // Text without the necessary quotes.
    for set in ["nats.password=271828", "push.tokens=[271828]", "logic.token=[271828]"] {
        let mistakes = read("", &[], &[set]).expect_err(set);
        assert!(!mistakes.contains("271828"), "{mistakes}");
    }
    for text in [format!("redis = \"{url}\"\n"), format!("[tcp]\n\"{url}\" = 1\n")] {
        let mistakes = read(&text, &[], &[]).expect_err(&text);
        assert!(!mistakes.contains("hunter2"), "{mistakes}");
    }
    let config = read_good("", &[], &[&format!("logic_server.redis=[\"{url}\"]")]);
    for shown in [config.to_toml(), format!("{config:?}"), format!("{config:#?}")] {
        assert!(shown.contains("redis://comet:***@store:6379"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    // The part after a question mark may be a password. Text that is no URL is treated as a secret, whatever it looks like.
    let config = read_good(
        "",
        &[],
        &[
            "logic_server.redis=[\"redis://u:hunter2@store:1/0?password=hunter2\", \"redis://h?p=x@hunter2\"]",
            "nats.user=\"u\"",
            "nats.password=\"p4://hunter2\"",
            "token.kind=\"jwt\"",
            "token.jwks_urls=[\"https://issuer.example/keys?key=hunter2\"]",
        ],
    );
    let redis = "redis = [\"redis://u:***@store:1/0?***\", \"redis://***\"]";
    let keys = "jwks_urls = [\"https://issuer.example/keys?***\"]";
    for shown in [config.to_toml(), format!("{config:?}")] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let shown = config.to_toml();
    for part in [redis, keys, "password = \"***\""] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}
