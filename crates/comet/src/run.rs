//! The two servers as processes, from the configuration to the signal that ends them.

use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs};

use comet_config::{Config, LogLevel, Machine, Mistakes, Source, load, load_for_logic};
use comet_logicd::LogicServer;
use comet_ops::{Notice, ServiceManager, Signal, Signals};
use comet_upgrade::Failure;
use rustix::process::{Pid, kill_process};

use crate::api_tls;
use crate::args::{EXIT_USAGE, Serve};
use crate::config_files;
use crate::log_filter;
use crate::log_output::LogOutput;
use crate::pid_file::PidFile;
use crate::preflight::{self, Purpose};
use crate::reload::{self, Reloaded};
use crate::service_status::ServiceStatus;
use crate::token_keys;
use crate::upgrade::{Answer, Asked, Former, Takeover, TakeoverError};
use crate::{App, Ended, shutdown};

/// Reads and checks the configuration: the file, and the environment and flags that override it. RUST_LOG is checked as
/// well.
///
/// # Errors
/// All mistakes, a line each.
pub fn configure(serve: &Serve) -> Result<Config, String> {
    read(serve, load)
}

/// As [`configure`], for `comet logic`. The file may be that of comets on other hosts.
///
/// # Errors
/// As for [`configure`].
pub fn configure_logic(serve: &Serve) -> Result<Config, String> {
    read(serve, load_for_logic)
}

fn read_text(path: &Path) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{}:{line}: this line is not UTF-8: save the file as UTF-8", path.display())
    })
}

fn read(
    serve: &Serve,
    load: impl FnOnce(&Source<'_>, &Machine) -> Result<Config, Mistakes>,
) -> Result<Config, String> {
    let machine = crate::machine().map_err(|error| format!("no list of CPUs: {error}"))?;
    let text = match &serve.config {
        Some(path) => Some((path.as_path(), read_text(path)?)),
        None => None,
    };
    let source = Source {
        file: text.as_ref().map(|(path, text)| (*path, text.as_str())),
        environment: &env::vars_os().collect::<Vec<_>>(),
        sets: &serve.sets,
        cores: serve.cores.as_deref(),
        control_cores: serve.control_cores.as_deref(),
        read_secret: Some(|path| fs::read_to_string(path)),
    };
    let config = load(&source, &machine).map_err(|mistakes| mistakes.to_string());
    // Only its mistakes matter here, so that they are reported together with all others.
    let filter = log_filter::from_environment(LogLevel::Info);
    match (config, filter) {
        (Ok(config), Ok(_)) => Ok(config),
        (Ok(_), Err(mistakes)) | (Err(mistakes), Ok(_)) => Err(mistakes),
        (Err(mistakes), Err(more)) => Err(format!("{mistakes}\n{more}")),
    }
}

/// Runs comet until a signal ends it. SIGHUP reads the configuration again, in the layers of `serve`. A second signal
/// to end skips the rest of the drain. Returns the exit code.
///
/// # Errors
/// Why it did not start, as a sentence.
///
/// # Panics
/// If the process has a log already.
pub fn serve(serve: &Serve, config: &Config) -> Result<u8, String> {
    preflight::server(config, Purpose::Start)?;
    // Done first: if another comet is running, nothing is touched.
    let mut pid_file = config.server.pid_file.as_deref().map(PidFile::claim).transpose()?;
    let (log, signals) = begin(config)?;
    let app = App::start(config).map_err(|error| error.to_string())?;
    if let Some(pid_file) = &mut pid_file {
        pid_file.write()?;
    }
    Server { serve, log, signals, app, pid_file }.run()
}

pub use crate::upgrade::is_successor;

/// Takes over from the process that has started this one, and then runs as [`serve`] does. Returns the exit code.
///
/// # Errors
/// Why the former process continues instead, as a sentence, and the exit code of this process.
///
/// # Panics
/// As [`serve`].
pub fn take_over(serve: &Serve) -> Result<u8, (String, u8)> {
    let failed = |error| (error, 1);
    let takeover = Takeover::begin().map_err(failed)?;
    let refused = |TakeoverError { sentence, code }| (sentence, code);
    let config = match configure(serve) {
        Ok(config) => config,
        Err(mistakes) => return Err(refused(takeover.refuse(mistakes, EXIT_USAGE))),
    };
    let (log, signals) = match begin(&config) {
        Ok(begun) => begun,
        Err(error) => return Err(refused(takeover.refuse(error, 1))),
    };
    let (app, pid_file) = takeover.run(&config).map_err(refused)?;
    Server { serve, log, signals, app, pid_file }.run().map_err(failed)
}

/// The steps before any thread starts.
fn begin(config: &Config) -> Result<(LogOutput, Signals), String> {
    let log = LogOutput::start(&config.log)?;
    log.abort_on_panic();
    comet_ops::enable_background_purge();
    // Done before anything starts, so that no signal is lost while the cores start.
    let signals = Signals::listen().map_err(|error| error.to_string())?;
    for result in Failure::LABELS.iter().chain(&["done"]) {
        comet_ops::count_upgrades(result, 0);
    }
    Ok((log, signals))
}

/// A running server.
struct Server<'a> {
    serve: &'a Serve,
    log: LogOutput,
    signals: Signals,
    app: App,
    pid_file: Option<PidFile>,
}

impl Server<'_> {
    /// Serves until a signal ends it, or another process takes over. Returns the exit code.
    fn run(self) -> Result<u8, String> {
        let Self { serve, log, mut signals, mut app, mut pid_file } = self;
        let manager = ServiceManager::from_environment();
        let status = ServiceStatus::start(app.census_taker()).map_err(|error| error.to_string())?;
        manager.notify(Notice::Ready);
        let mut began = Began::now();
        let signal = loop {
            match next_event(&mut signals, &mut began) {
                Event::Hangup => {
                    manager.notify(Notice::Reloading);
                    reload(serve, &log, &mut app);
                    manager.notify(Notice::Ready);
                }
                Event::Day => app.certificates().warn(),
                Event::Minutes => app.rotate_ticket_keys(),
                Event::Upgrade => {
                    if let Some(id) = hand_over(&app, pid_file.as_mut(), &manager, &mut signals) {
                        pass_on(&mut signals, id, &manager);
                        app.leave();
                        pass_on(&mut signals, id, &manager);
                        return Ok(0);
                    }
                }
                Event::End(signal) => break signal,
            }
        };
        let drain = app.config().server.drain_delay + app.config().server.drain_timeout;
        manager.notify(Notice::Stopping { within: drain + END_TIME });
        status.drains(Instant::now() + drain);
        log::info!("{signal}: closing all connections");
        let reopen = app.reopener();
        let hangup = || reopen_logs(&log, reopen());
        let code = match shutdown::run(signals, hangup, || app.drain()) {
            Ok(Ended { drained, cores }) => {
                log::info!("{drained} of {cores} cores drained in time");
                0
            }
            Err(signal) => cut_short(signal),
        };
        // Dropped before the log, because it may log a line.
        drop(pid_file);
        Ok(code)
    }
}

/// Has another process take over the connections, or reports what one could take over, as requested. Returns the
/// process that takes over.
fn hand_over(
    app: &App,
    pid_file: Option<&mut PidFile>,
    manager: &ServiceManager,
    signals: &mut Signals,
) -> Option<u32> {
    let asked = Asked::fetch()?;
    let mut former = Former::new(app, pid_file.as_deref(), signals);
    if asked.request.is_check {
        let answer = former.check();
        asked.answer(&answer);
        return None;
    }
    log::info!("SIGUSR2: a new process is started to go on with the connections");
    match former.hand_over(&asked.request) {
        Ok(id) => {
            let done = format!("process {id} serves: {}", former.describe());
            // The new process has notified the manager already. That notification may be lost, and processes of older
            // releases do not send it.
            manager.notify(Notice::MainProcess(id));
            if let Some(Err(error)) = pid_file.map(|file| file.leave(id)) {
                log::error!("upgrade: {error}");
            }
            log::info!("upgrade: {done}");
            asked.answer(&Answer { is_done: true, text: done });
            Some(id)
        }
        Err(failure) => {
            comet_ops::count_upgrades(failure.label(), 1);
            for line in failure.to_string().lines() {
                log::error!("upgrade: this process goes on: {line}");
            }
            let text = format!("this server goes on as before: {failure}");
            asked.answer(&Answer { is_done: false, text });
            None
        }
    }
}

/// Passes the signals that came to this process on to process `id`, which serves: they are meant for the server. That
/// process may have read its configuration before them.
fn pass_on(signals: &mut Signals, id: u32, manager: &ServiceManager) {
    let process = i32::try_from(id).ok().and_then(Pid::from_raw).expect("it is a child");
    while let Some(signal) = signals.wait_for(Duration::ZERO) {
        let passed = match signal {
            Signal::Hangup => rustix::process::Signal::HUP,
            // A service manager signals all processes of the server itself, and a second signal would cut the drain
            // short.
            Signal::Terminate if !manager.is_there() => rustix::process::Signal::TERM,
            // A terminal signals both processes, and a request for another upgrade goes to the new process.
            Signal::Terminate | Signal::Interrupt | Signal::Upgrade => continue,
        };
        log::info!("upgrade: {signal} is passed on to process {id}");
        if let Err(error) = kill_process(process, passed) {
            log::error!("upgrade: {signal} does not reach process {id}: {error}");
        }
    }
}

/// Runs `comet logic` until a signal ends it. SIGHUP opens the log file again, and reads the configuration and the files
/// it names again, in the layers of `serve`. Returns the exit code, as [`serve`] does.
///
/// # Errors
/// Why it did not start, as a sentence.
///
/// # Panics
/// If the process has a log already.
pub fn logic(serve: &Serve, config: &Config) -> Result<u8, String> {
    preflight::logic(config, Purpose::Start)?;
    let log = LogOutput::start(&config.log)?;
    log.abort_on_panic();
    comet_ops::enable_background_purge();
    let mut signals = Signals::listen().map_err(|error| error.to_string())?;
    let server = crate::logic::start(config).map_err(|error| error.to_string())?;
    let manager = ServiceManager::from_environment();
    manager.notify(Notice::Ready);
    let mut running = config.clone();
    let mut began = Began::now();
    let signal = loop {
        match next_event(&mut signals, &mut began) {
            Event::Hangup => {
                manager.notify(Notice::Reloading);
                log.reopen();
                reload_logic(serve, &log, &server, &mut running);
                manager.notify(Notice::Ready);
            }
            Event::Day => {}
            Event::Minutes => continue,
            Event::Upgrade => {
                log::warn!("SIGUSR2: comet logic hands nothing over: restart it");
                continue;
            }
            Event::End(signal) => break signal,
        }
        server.certificates().warn();
    };
    manager.notify(Notice::Stopping { within: END_TIME });
    log::info!("{signal}: ending");
    let hangup = || reopen_logs(&log, Ok(()));
    Ok(match shutdown::run(signals, hangup, || server.stop()) {
        Ok(()) => 0,
        Err(signal) => cut_short(signal),
    })
}

/// Longest time of an end beside the drain: 5 s for notices to logic and for discovery, one for calls under way, one
/// for the log, and some for a busy host.
const END_TIME: Duration = Duration::from_secs(10);

const DAY: Duration = Duration::from_secs(24 * 3600);
const MINUTES: Duration = Duration::from_secs(600);

/// An event in the life of a running server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    /// SIGHUP.
    Hangup,
    /// SIGUSR2.
    Upgrade,
    /// A day has passed without a signal.
    Day,
    /// Some minutes have passed, with or without signals.
    Minutes,
    /// A signal to end.
    End(Signal),
}

/// The beginning of the present day and of the present minutes.
struct Began {
    day: Instant,
    minutes: Instant,
}

impl Began {
    fn now() -> Self {
        Self { day: Instant::now(), minutes: Instant::now() }
    }
}

/// Waits for the next event.
fn next_event(signals: &mut Signals, began: &mut Began) -> Event {
    match signals.wait_for(MINUTES.saturating_sub(began.minutes.elapsed())) {
        None => {
            began.minutes = Instant::now();
            if began.day.elapsed() < DAY {
                return Event::Minutes;
            }
            began.day = Instant::now();
            Event::Day
        }
        Some(Signal::Hangup) => {
            began.day = Instant::now();
            Event::Hangup
        }
        Some(Signal::Upgrade) => Event::Upgrade,
        Some(signal) => Event::End(signal),
    }
}

/// The effect of SIGHUP when no setting can change. `trace_log` is the result for its file.
fn reopen_logs(log: &LogOutput, trace_log: Result<(), String>) {
    log.reopen();
    if let Err(error) = trace_log {
        log::error!("SIGHUP: {error}");
    }
    log::info!("SIGHUP: the log files are opened again; settings change at the next start");
}

/// The exit code after a signal that did not wait for the end: 128 plus the signal, as in shells.
fn cut_short(signal: Signal) -> u8 {
    log::warn!("{signal} again: ending at once");
    match signal {
        Signal::Interrupt => 130,
        Signal::Terminate | Signal::Hangup | Signal::Upgrade => 143,
    }
}

fn reload(serve: &Serve, log: &LogOutput, app: &mut App) {
    log.reopen();
    if let Err(error) = app.reopen() {
        log::error!("SIGHUP: {error}");
    }
    let level = app.config().log.level;
    let newer = config_files::read(configure, serve);
    let reloaded = match newer.and_then(|newer| app.reload(&newer)) {
        Ok(reloaded) => reloaded,
        Err(mistakes) => return say_mistakes(&mistakes),
    };
    set_level(log, level, app.config().log.level);
    say_changes(&reloaded);
    app.certificates().warn();
}

/// Adopts into `running` the keys of `comet logic` that can change at run time.
fn reload_logic(serve: &Serve, log: &LogOutput, server: &LogicServer, running: &mut Config) {
    let newer = match config_files::read(configure_logic, serve) {
        Ok(newer) => newer,
        Err(mistakes) => return say_mistakes(&mistakes),
    };
    let adopted = match running.adopt_in_logic(&newer) {
        Ok(adopted) => adopted,
        Err(mistakes) => return say_mistakes(&reload::misfit(&mistakes)),
    };
    let token_keys = match token_keys::reload(server.authenticator(), &adopted.token.jwt_keys) {
        Ok(token_keys) => token_keys,
        Err(error) => return say_mistakes(&error),
    };
    let tls_reload =
        match api_tls::prepare_reload(server.tls(), &adopted, api_tls::CallingProcess::Logic) {
            Ok(tls_reload) => tls_reload,
            Err(error) => return say_mistakes(&error),
        };
    let comets = crate::logic::comets(&adopted.logic_server, server.tls());
    let comets = match comets.collect::<Result<_, _>>() {
        Ok(comets) => comets,
        Err(error) => return say_mistakes(&error.to_string()),
    };
    let mut reloaded = Reloaded::compare_logic(running, &adopted, &newer);
    reloaded.files = token_keys.adopt();
    set_level(log, running.log.level, adopted.log.level);
    server.set_access_log(adopted.push.access_log);
    // Of two locks, the one that closes takes effect before the other opens.
    let tokens = &adopted.logic_server.tokens;
    if !tokens.is_empty() {
        server.set_tokens(tokens.clone());
    }
    let certificate = api_tls::certificate(tls_reload.certificate(), &adopted);
    reloaded.certificates = server.certificates().replace(certificate.into_iter().collect());
    tls_reload.apply();
    server.set_tokens(tokens.clone());
    server.set_comets(comets);
    *running = adopted;
    say_changes(&reloaded);
}

fn say_mistakes(mistakes: &str) {
    for mistake in mistakes.lines() {
        log::error!("SIGHUP: nothing changes: {mistake}");
    }
}

/// Also sets the level if the key is the same, because it may have been changed at the debug address.
fn set_level(log: &LogOutput, before: LogLevel, newer: LogLevel) {
    if let Err(error) = log.set_level(newer)
        && newer != before
    {
        log::warn!("SIGHUP: {error}");
    }
}

fn say_changes(reloaded: &Reloaded) {
    for change in &reloaded.alive {
        log::info!("SIGHUP: {change}");
    }
    for certificate in &reloaded.certificates {
        log::info!("SIGHUP: {}: new {certificate}", certificate.setting());
    }
    for change in &reloaded.files {
        log::info!("SIGHUP: {change}");
    }
    for change in &reloaded.later {
        log::warn!("SIGHUP: {change}, at the next start");
    }
    if reloaded.is_empty() {
        log::info!("SIGHUP: no key has changed");
    }
}
