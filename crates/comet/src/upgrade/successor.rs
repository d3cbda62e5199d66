//! The new process: it takes over the listeners and connections of the former one, or reports why it cannot.

use std::env;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use comet_config::Config;
use comet_core::{BlockedNetwork, Blocklist, BlocklistFull, Millis, distribute};
use comet_handover::{FEATURES, Shard, VERSION};
use comet_listen::Inherited;
use comet_net::{Arrived, ArrivedSocket, Core};
use comet_ops::{Notice, ServiceManager};
use comet_upgrade::{Greeting, Handed, Successor, VARIABLE};

use crate::options::memory_ceiling;
use crate::pid_file::PidFile;
use crate::start::{Handles, Prepared, Threads};
use crate::{App, preflight};

use super::handover_data::{Process, Sockets};

/// How long each step of the former process may take. If that process ends, this is noticed at once.
const TIME: Duration = Duration::from_secs(120);

/// Whether this process was started to take over from another one.
#[must_use]
pub fn is_successor() -> bool {
    env::var_os(VARIABLE).is_some()
}

/// Why the former process continues, as this one reports it.
#[derive(Debug)]
pub(crate) struct TakeoverError {
    pub(crate) sentence: String,
    /// The exit code of this process.
    pub(crate) code: u8,
}

/// A process that has yet to take over the connections.
struct PreparedTakeover {
    prepared: Prepared,
    threads: Threads,
    handles: Handles,
    pid_file: Option<PidFile>,
    /// The pid file of the former process, if this process uses another one.
    former_pid_file: Option<PidFile>,
}

/// A process that is about to take over.
pub(crate) struct Takeover {
    successor: Successor,
}

impl Takeover {
    /// The connection to the former process.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn begin() -> Result<Self, String> {
        // The files of Unix sockets still belong to the former process.
        comet_listen::keep_socket_files(true);
        match Successor::from_environment(TIME) {
            Ok(Some(successor)) => Ok(Self { successor }),
            Ok(None) => Err(format!("{VARIABLE} is not set")),
            Err(error) => {
                Err(format!("{VARIABLE} is set, but there is no former process: {error}"))
            }
        }
    }

    /// Reports that this process cannot take over. It has to end then.
    pub(crate) fn refuse(self, why: String, code: u8) -> TakeoverError {
        self.successor.refuse(&why);
        TakeoverError { sentence: why, code }
    }

    /// Takes over with `config`. Returns once the former process has ended its work.
    ///
    /// # Errors
    /// Why the former process continues, as far as this one knows.
    pub(crate) fn run(mut self, config: &Config) -> Result<(App, Option<PidFile>), TakeoverError> {
        let takeover = match self.prepare(config) {
            Ok(takeover) => takeover,
            Err(why) => return Err(self.refuse(why, 1)),
        };
        let PreparedTakeover { prepared, threads, handles, mut pid_file, former_pid_file } =
            takeover;
        // Memory used without the connections is checked before clients have to wait.
        let received = check_memory(config)
            .and_then(|()| self.receive(&threads))
            .and_then(|()| check_memory(config));
        if let Err(why) = received {
            // The former process does not wait for the end of these threads, during which this one would seem to hang.
            // An error of a failed core would add nothing.
            let refused = self.refuse(why, 1);
            let _ = threads.stop();
            return Err(refused);
        }
        if let Err(error) = self.successor.wait_for_commit() {
            // The former process may end this one before that.
            let sentence = format!("the former process goes on: {error}");
            let _ = threads.stop();
            return Err(TakeoverError { sentence, code: 1 });
        }
        // Done first: while the former process is the main process, its end is the end of the service, and it may fail
        // from here on.
        let manager = ServiceManager::from_environment();
        manager.notify(Notice::MainProcess(std::process::id()));
        // Counted before the pages that show it are served.
        comet_ops::count_upgrades("done", 1);
        let app = App::go_on(prepared, threads, handles);
        comet_listen::keep_socket_files(false);
        if let Some(pid_file) = &mut pid_file
            && let Err(error) = pid_file.write()
        {
            log::error!("upgrade: {error}");
        }
        if let Some(file) = former_pid_file {
            file.remove();
        }
        Ok((app, pid_file))
    }

    /// Sets up all that needs no state: the listeners of the former process, and waiting threads.
    fn prepare(&mut self, config: &Config) -> Result<PreparedTakeover, String> {
        let features = FEATURES.iter().map(|name| (*name).to_owned()).collect();
        let greeting = Greeting { version: VERSION, features };
        let (said, mut sockets) = self.successor.greet(&greeting).map_err(gone)?;
        let greeted = Instant::now();
        let Sockets { names, pid_file, clock_us, connections, key_sets } = Sockets::decode(&said)?;
        let pid_file = match pid_file {
            Some(path) => Some((path, sockets.pop().ok_or("the pid file is missing")?)),
            None => None,
        };
        let inherited = Inherited::new(&names, sockets)?;
        let open_files = preflight::successor(config, &inherited)?.open_files;
        check_open_files(connections, open_files)?;
        let inherited_file = pid_file.map(|(path, file)| PidFile::inherit(&path, file));
        let (pid_file, former_pid_file) = match (&config.server.pid_file, inherited_file) {
            (Some(own), Some(file)) if *own == file.path() => (Some(file), None),
            // The file gets another path, or is no longer used.
            (Some(own), former) => (Some(PidFile::claim(own)?), former),
            (None, former) => (None, former),
        };
        let failed = |error: crate::StartError| error.to_string();
        let mut prepared = Prepared::new(config, Some(inherited), &key_sets).map_err(failed)?;
        let clock = Duration::from_micros(clock_us) + greeted.elapsed();
        let (threads, handles) = prepared.start(Some(clock)).map_err(failed)?;
        Ok(PreparedTakeover { prepared, threads, handles, pid_file, former_pid_file })
    }

    /// Gives the cores the state that the former process hands over, once it is frozen.
    fn receive(&mut self, threads: &Threads) -> Result<(), String> {
        let mut shards = self.successor.receive_shards(TIME).map_err(gone)?.into_iter();
        let (process, _) = shards.next().ok_or("the state of the process is missing")?;
        let Process { last_call, upgrades, counters, blocks, paced, hosts } =
            Process::decode(&process)?;
        threads.control.take_over(last_call, read_blocklist(blocks)?);
        let parts = read(shards, threads.cores.len())?;
        threads.control.take_over_paced(paced, parts.iter().flat_map(|part| part.part.paced()));
        if let Some(hosts) = hosts {
            let rooms = parts.iter().flat_map(|part| part.part.rooms());
            threads.control.take_over_hosts(hosts, rooms.cloned());
        }
        let adopt = |(core, part): (&Core, Arrived)| core.adopt(part);
        let adopted: Vec<_> = threads.cores.iter().zip(parts).map(adopt).collect();
        for core in adopted {
            core.wait(TIME).and_then(|adopted| adopted)?;
        }
        comet_ops::carry(&counters);
        for (result, count) in upgrades {
            comet_ops::count_upgrades(&result, count);
        }
        Ok(())
    }
}

/// Whether this process may open as many files as `connections` need; `open_files` is the result of
/// [`comet_net::probe`].
fn check_open_files(connections: u64, open_files: u64) -> Result<(), String> {
    if connections <= open_files {
        return Ok(());
    }
    Err(format!(
        "{connections} connections would go on, and the limit on open files of the new process leaves room for {open_files} \
         (raise it with ulimit -n, or LimitNOFILE= in a systemd unit)"
    ))
}

/// Whether this process is within its memory ceiling (`limits.memory`). Buffers that were freed do not count.
fn check_memory(config: &Config) -> Result<(), String> {
    let ceiling = memory_ceiling(config);
    match comet_ops::allocated_bytes() {
        Ok(bytes) if bytes > ceiling => Err(format!(
            "the new process would have {} MiB at once, and limits.memory leaves it {} MiB",
            bytes >> 20,
            ceiling >> 20
        )),
        // If the memory cannot be read, the ceiling is not enforced later either.
        _ => Ok(()),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn gone(error: std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::OutOfMemory => "out of memory for what is handed over".to_owned(),
        _ => format!("the former process: {error}"),
    }
}

fn read_blocklist(all: Vec<(String, u64)>) -> Result<Blocklist, String> {
    let mut blocklist = Blocklist::default();
    for (network, until) in all {
        let block = BlockedNetwork { network: network.parse()?, until: Millis(until) };
        blocklist = blocklist.with(Millis(0), block).map_err(|BlocklistFull| "too many blocks")?;
    }
    Ok(blocklist)
}

/// The part that each of `cores` cores takes over.
fn read(shards: impl Iterator<Item = Handed>, cores: usize) -> Result<Vec<Arrived>, String> {
    let read = |(state, sockets): Handed| -> Result<(Shard, Vec<OwnedFd>), String> {
        let shard = Shard::decode(&state).map_err(|fault| fault.to_string())?;
        match shard.connections.len() == sockets.len() {
            true => Ok((shard, sockets)),
            false => Err(format!(
                "{} sockets for {} connections",
                sockets.len(),
                shard.connections.len()
            )),
        }
    };
    let shards = shards.map(read).collect::<Result<Vec<_>, _>>()?;
    let count = u16::try_from(cores).expect("there are no more CPUs than that");
    let parts = distribute(shards, count).map_err(|fault| fault.to_string())?;
    let arrived = parts.into_iter().map(|(part, sockets)| {
        let peers: Vec<_> = part.addresses().map(|address| address.parse().ok()).collect();
        let sockets = sockets.into_iter().zip(peers);
        let sockets = sockets.map(|(fd, peer)| ArrivedSocket { fd, peer }).collect();
        Arrived { part, sockets }
    });
    Ok(arrived.collect())
}
