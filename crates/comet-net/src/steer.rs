//! Socket steering: a connection goes to the core on whose CPU its packets arrive.
//!
//! The sockets of one address form a reuseport group. A classic BPF program of the group chooses
//! the socket that gets a connection (SO_ATTACH_REUSEPORT_CBPF in socket(7), Linux 4.5).
#![allow(unsafe_code, reason = "no safe binding has this socket option")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libc::{
    BPF_A, BPF_ABS, BPF_ALU, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_MOD, BPF_RET, BPF_W, SKF_AD_CPU,
    SKF_AD_OFF, sock_filter, sock_fprog,
};

/// Makes the group of `listener` choose a socket by the CPU that handles the first packet. The
/// socket's index in the group is the index of the CPU in `cpus`. Connections from other CPUs are
/// spread over all sockets.
///
/// A group numbers its sockets in the order in which they began to listen.
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn by_cpu(listener: impl AsFd, cpus: &[usize]) -> io::Result<()> {
    let mut program = program(cpus);
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies `length` entries of the program, which outlives the call.
    unsafe { set(listener, libc::SO_ATTACH_REUSEPORT_CBPF, &program) }
}

/// Makes the group of `listener` spread connections over all its sockets, as a group without a program does.
/// (`SO_DETACH_REUSEPORT_BPF` in socket(7), Linux 5.3.)
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn by_hash(listener: impl AsFd) -> io::Result<()> {
    let unused: libc::c_int = 0;
    // SAFETY: the kernel reads an integer at most.
    let detached = unsafe { set(listener, libc::SO_DETACH_REUSEPORT_BPF, &unused) };
    match detached {
        // No program was attached.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        detached => detached,
    }
}

/// # Safety
/// `value` must have the type that the kernel reads for the option.
unsafe fn set<T>(listener: impl AsFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` lives until the call returns. Its type is the caller's obligation.
    let result = unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn program(cpus: &[usize]) -> Vec<sock_filter> {
    let instruction = |code: u32, jump_if_not: u8, value: usize| sock_filter {
        code: code as u16,
        jt: 0,
        jf: jump_if_not,
        k: value as u32,
    };
    let cpu = (SKF_AD_OFF + SKF_AD_CPU) as usize;
    let mut program = vec![instruction(BPF_LD | BPF_W | BPF_ABS, 0, cpu)];
    for (index, &cpu) in cpus.iter().enumerate() {
        program.push(instruction(BPF_JMP | BPF_JEQ | BPF_K, 1, cpu));
        program.push(instruction(BPF_RET | BPF_K, 0, index));
    }
    program.push(instruction(BPF_ALU | BPF_MOD | BPF_K, 0, cpus.len()));
    program.push(instruction(BPF_RET | BPF_A, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets the program on `cpu` and returns its result.
    fn run(program: &[sock_filter], cpu: u32) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jf, k, .. } = program[at];
            at += 1;
            match u32::from(code) {
                code if code == BPF_LD | BPF_W | BPF_ABS => {
                    assert_eq!(k as i32, SKF_AD_OFF + SKF_AD_CPU);
                    accumulator = cpu;
                }
                code if code == BPF_JMP | BPF_JEQ | BPF_K => {
                    at += if accumulator == k { 0 } else { usize::from(jf) };
                }
                code if code == BPF_ALU | BPF_MOD | BPF_K => accumulator %= k,
                code if code == BPF_RET | BPF_K => return k,
                code if code == BPF_RET | BPF_A => return accumulator,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn the_cpu_of_a_core_selects_it_and_other_cpus_are_spread() {
        let program = program(&[4, 6, 0]);
        let chosen: Vec<_> = (0..9).map(|cpu| run(&program, cpu)).collect();
        assert_eq!(chosen, [2, 1, 2, 0, 0, 2, 1, 1, 2]);
    }
}
