//! Panics of a process whose log cannot be written.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio, abort};
use std::sync::mpsc::channel;
use std::time::Duration;
use std::{env, fs};

use comet_ops::{LogFormat, ProcessLog};
use rustix::io::write;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::Value;

/// Set in the process that is to panic: the file of its log, or empty.
const FILE: &str = "COMET_OPS_TEST_PANIC";
/// Set as well where the log is to be JSON.
const JSON: &str = "COMET_OPS_TEST_JSON";
/// Set as well where memory is to run out in the middle of the report.
const SCARCE: &str = "COMET_OPS_TEST_SCARCE";

/// The bytes that are left for the report: far too few for the symbols of a backtrace.
const LEFT: usize = 256 << 10;

const SIGABRT: i32 = 6;
/// Of an end by SIGALRM.
const EXIT_ALARM: i32 = 142;

/// Longest wait for the end of the process.
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test by itself: the other tests run it as a process.
#[test]
fn panics_when_it_is_told_to() {
    let Ok(file) = env::var(FILE) else { return };
    let file = (!file.is_empty()).then_some(file.as_ref());
    let format = env::var_os(JSON).map_or(LogFormat::Text, |_| LogFormat::Json);
    let log = ProcessLog::open(file, format).unwrap();
    // The log's thread has started, and has made its first allocations.
    log.flush();
    std::panic::set_hook(Box::new(move |panic| {
        log.report_panic(panic);
        abort();
    }));
    if env::var_os(SCARCE).is_some() {
        limit_memory();
    }
    panic!("the reason");
}

/// Takes all memory but [`LEFT`], and leaves the address space that the program takes as it is mapped to look for symbols.
fn limit_memory() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let size = size.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10;
    let program = fs::metadata(env::current_exe().unwrap()).unwrap().len();
    let left = Vec::<u8>::with_capacity(LEFT);
    let limit = |current| {
        setrlimit(Resource::As, Rlimit { current: Some(current), maximum: None }).unwrap();
    };
    limit(size);
    for block in [1 << 20, 32 << 10] {
        let mut taken = Vec::new();
        while taken.try_reserve_exact(block).is_ok() {
            std::mem::forget(std::mem::take::<Vec<u8>>(&mut taken));
        }
    }
    drop(left);
    limit(size + program + LEFT as u64);
}

/// This program, about to panic.
fn panicking(file: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "panics::panics_when_it_is_told_to", "--nocapture"]);
    command.env(FILE, file).env_remove("RUST_BACKTRACE").stdout(Stdio::null());
    command
}

#[test]
fn a_panic_ends_the_process_though_its_log_is_not_read() {
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

/// Runs the command again until the file has some of its output: a process that panics waits a second for its log, which may
/// be too short on a busy machine.
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

#[test]
fn a_panic_ends_the_process_though_memory_runs_out_as_it_is_reported() {
    let mut command = panicking("");
    command.env(SCARCE, "1").env("RUST_BACKTRACE", "1").stderr(Stdio::piped());
    let process = command.spawn().unwrap();
    let (sender, ended) = channel();
    std::thread::spawn(move || sender.send(process.wait_with_output().unwrap()));
    let output = ended.recv_timeout(PATIENCE).expect("it ends");
    let printed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(EXIT_ALARM), "{printed}");
    assert!(printed.contains("panicked at ") && printed.contains("the reason"), "{printed}");
}

#[test]
fn a_panic_and_its_backtrace_are_lines_of_json() {
    let file = env::temp_dir().join(format!("comet-{}-panic.json", std::process::id()));
    let mut command = panicking(file.to_str().unwrap());
    let command = command.env(JSON, "1").env("RUST_BACKTRACE", "1");
    let Output { stderr, .. } = until_logged(command, &file);
    let logged = fs::read(&file).unwrap();
    assert_eq!(logged, stderr, "both have the same");
    let messages = String::from_utf8(logged).unwrap();
    let messages = messages.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["level"], &line["target"]), (&"error".into(), &"comet_ops".into()));
        line["message"].as_str().unwrap().to_owned()
    });
    let [reason, backtrace] = messages.collect::<Vec<_>>().try_into().unwrap();
    assert!(reason.ends_with(": the reason"), "{reason}");
    assert!(backtrace.contains("backtrace of the panic:\n"), "{backtrace}");
    assert!(backtrace.contains("panics_when"), "{backtrace}");
    fs::remove_file(&file).unwrap();
}
