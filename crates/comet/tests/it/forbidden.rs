//! The running program where a filter refuses system calls, as that of a container does.

use std::collections::BTreeMap;
use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use crate::process::{run, with_sets};

/// Numbers of the calls, which are the same on all architectures.
const CALLS: [(&str, i64); 3] =
    [("io_uring_setup", 425), ("io_uring_enter", 426), ("io_uring_register", 427)];

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Runs the program with a system call that fails.
fn run_without(call: i64, error: u32, arguments: Vec<&'static str>) -> (i32, String, String) {
    // A filter is of a thread, and of all processes it starts.
    let filtered = thread::spawn(move || {
        let filter = SeccompFilter::new(
            BTreeMap::from([(call, Vec::new())]),
            SeccompAction::Allow,
            SeccompAction::Errno(error),
            std::env::consts::ARCH.try_into().unwrap(),
        );
        let program: BpfProgram = filter.unwrap().try_into().unwrap();
        apply_filter(&program).unwrap();
        run(&arguments)
    });
    filtered.join().unwrap()
}

#[test]
fn each_call_of_io_uring_that_is_refused_is_a_sentence_at_check_and_start() {
    for (name, call) in CALLS {
        for error in [EPERM, ENOSYS] {
            for is_check in [true, false] {
                let arguments =
                    [if is_check { &["--check"][..] } else { &[] }, &with_sets(&[])].concat();
                let (code, stdout, stderr) = run_without(call, error, arguments);
                assert_eq!((code, stdout.as_str()), (1, ""), "{name} {error}: {stderr}");
                let last = stderr.lines().last().unwrap();
                assert!(last.starts_with("comet: io_uring is ") && last.contains(name), "{last}");
                let all = "allow io_uring_setup, io_uring_register and io_uring_enter in the seccomp profile";
                assert!(last.contains(all), "{last}");
                assert!(last.contains("sysctl kernel.io_uring_disabled=0"), "{last}");
                assert!(!stderr.contains("panicked"), "{stderr}");
            }
        }
    }
}
