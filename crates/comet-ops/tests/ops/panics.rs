//! Panics of a process whose log takes nothing.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio, abort};
use std::sync::mpsc::channel;
use std::time::Duration;
use std::{env, fs};

use comet_ops::{LogFormat, ProcessLog};
use rustix::io::write;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use serde_json::Value;

/// Set in the process that is to panic: the file of its log, or empty.
const FILE: &str = "COMET_OPS_TEST_PANIC";
/// Set as well where the log is to be JSON.
const JSON: &str = "COMET_OPS_TEST_JSON";

const SIGABRT: i32 = 6;

/// Longest wait for an end that has to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Not a test by itself: what the others run as a process.
#[test]
fn panics_when_it_is_told_to() {
    let Ok(file) = env::var(FILE) else { return };
    let file = (!file.is_empty()).then_some(file.as_ref());
    let format = env::var_os(JSON).map_or(LogFormat::Text, |_| LogFormat::Json);
    let log = ProcessLog::open(file, format).unwrap();
    std::panic::set_hook(Box::new(move |panic| {
        log.report_panic(panic);
        abort();
    }));
    panic!("the reason");
}

/// This program, about to panic.
fn panicking(file: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "panics::panics_when_it_is_told_to", "--nocapture"]);
    command.env(FILE, file).env_remove("RUST_BACKTRACE").stdout(Stdio::null());
    command
}

#[test]
fn a_panic_ends_the_process_though_nobody_reads_its_log() {
    let (unread, stderr) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    fcntl_setpipe_size(&stderr, 4_096).unwrap();
    assert_eq!(write(&stderr, &[b'x'; 4_096]), Ok(4_096));
    let mut process = panicking("").stderr(stderr).spawn().unwrap();
    let (sender, ended) = channel();
    std::thread::spawn(move || sender.send(process.wait().unwrap()));
    let status = ended.recv_timeout(PATIENCE).expect("it ends");
    assert_eq!(status.signal(), Some(SIGABRT));
    drop(unread);
}

/// Runs the command until the file has something of it: a process that panics waits a second for its log, which may be too
/// short for a busy machine.
fn until_logged(command: &mut Command, file: &Path) -> Output {
    for _ in 0..10 {
        let output = command.stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.signal(), Some(SIGABRT), "{output:?}");
        if fs::metadata(file).unwrap().len() > 0 {
            return output;
        }
    }
    panic!("the log has nothing");
}

#[test]
fn a_panic_is_in_the_log_and_on_standard_error() {
    let file = env::temp_dir().join(format!("comet-{}-panic.log", std::process::id()));
    let unlogged = panicking("").stderr(Stdio::piped()).output().unwrap();
    assert_eq!(unlogged.status.signal(), Some(SIGABRT), "{unlogged:?}");
    let logged = until_logged(&mut panicking(file.to_str().unwrap()), &file);
    for Output { stderr, .. } in [unlogged, logged] {
        let printed = String::from_utf8(stderr).unwrap();
        let thread = "thread \"panics::panics_when_it_is_told_to\" panicked at ";
        assert!(printed.contains(thread) && printed.contains("the reason"), "{printed}");
    }
    let logged = fs::read_to_string(&file).unwrap();
    assert!(logged.contains(" ERROR comet_ops] thread "), "{logged}");
    fs::remove_file(&file).unwrap();
}

/// With the lines of a backtrace in it.
#[test]
fn a_panic_is_one_line_of_json() {
    let file = env::temp_dir().join(format!("comet-{}-panic.json", std::process::id()));
    let mut command = panicking(file.to_str().unwrap());
    let command = command.env(JSON, "1").env("RUST_BACKTRACE", "1");
    let Output { stderr, .. } = until_logged(command, &file);
    let logged = fs::read(&file).unwrap();
    assert_eq!(logged, stderr, "both have the same");
    let line: Value = serde_json::from_slice(&logged).unwrap();
    assert_eq!((&line["level"], &line["target"]), (&"error".into(), &"comet_ops".into()));
    let message = line["message"].as_str().unwrap();
    assert!(message.contains("the reason\n") && message.contains("panics_when"), "{message}");
    fs::remove_file(&file).unwrap();
}
