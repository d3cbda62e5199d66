//! Processes of tests that stand still for a while.

use std::process::Child;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// Lets a child run no more, or run again. A child that is paused stands still on return: the signal alone is not
/// enough, as it returns before every thread has stopped.
pub(crate) fn pause(child: &Child, is_paused: bool) {
    let id = Pid::from_child(child);
    kill_process(id, if is_paused { Signal::STOP } else { Signal::CONT }).unwrap();
    if is_paused {
        waitid(WaitId::Pid(id), WaitIdOptions::STOPPED).unwrap();
    }
}
