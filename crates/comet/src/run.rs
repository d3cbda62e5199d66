//! The two servers as processes: from the configuration to the signal that ends them.

use std::{env, fs};

use comet_config::{Config, Machine, Mistakes, Source, load, load_for_logic};
use comet_ops::{Signal, Signals};

use crate::App;
use crate::args::Serve;
use crate::log_output::LogOutput;
use crate::pid_file::PidFile;

/// Reads and checks the configuration: the file, and the environment and the flags that overrule it.
///
/// # Errors
/// All mistakes, a line each.
pub fn configure(serve: &Serve) -> Result<Config, String> {
    read(serve, load)
}

/// The same for `comet logic`, which may read the file of comets on other hosts.
///
/// # Errors
/// As for [`configure`].
pub fn configure_logic(serve: &Serve) -> Result<Config, String> {
    read(serve, load_for_logic)
}

fn read(
    serve: &Serve,
    load: impl FnOnce(&Source<'_>, &Machine) -> Result<Config, Mistakes>,
) -> Result<Config, String> {
    let machine = crate::machine().map_err(|error| format!("no list of CPUs: {error}"))?;
    let text = match &serve.config {
        Some(path) => Some((
            path.as_path(),
            fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?,
        )),
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
    load(&source, &machine).map_err(|mistakes| mistakes.to_string())
}

/// Runs comet until a signal ends it. SIGHUP reads the configuration again, in the layers of `serve`.
///
/// # Errors
/// Why it did not start, as a sentence.
///
/// # Panics
/// If the process has a log already.
pub fn serve(serve: &Serve, config: &Config) -> Result<(), String> {
    // First: if another comet runs already, nothing is touched.
    let pid_file = config.server.pid_file.as_deref().map(PidFile::claim).transpose()?;
    let log = LogOutput::start(&config.log)?;
    abort_on_panic();
    // Before anything starts, so that no signal is lost while the cores start.
    let mut signals = Signals::listen().map_err(|error| error.to_string())?;
    let mut app = App::start(config).map_err(|error| error.to_string())?;
    if let Some(pid_file) = &pid_file {
        pid_file.write()?;
    }
    let signal = until_end(&mut signals, || reload(serve, &log, &mut app));
    log::info!("{signal}: closing all connections");
    let ended = app.drain();
    log::info!("{} of {} cores drained in time", ended.drained, ended.cores);
    Ok(())
}

/// Runs `comet logic` until a signal ends it. SIGHUP opens the log file again, and reads the tokens of
/// callers again, in the layers of `serve`.
///
/// # Errors
/// Why it did not start, as a sentence.
///
/// # Panics
/// If the process has a log already.
pub fn logic(serve: &Serve, config: &Config) -> Result<(), String> {
    let log = LogOutput::start(&config.log)?;
    abort_on_panic();
    let mut signals = Signals::listen().map_err(|error| error.to_string())?;
    let server = crate::logic::start(config).map_err(|error| error.to_string())?;
    let signal = until_end(&mut signals, || {
        match log.reopen() {
            Ok(()) => log::info!("SIGHUP: the log file is open; but for tokens, settings wait"),
            Err(error) => log::error!("SIGHUP: {error}"),
        }
        match configure_logic(serve) {
            Ok(newer) => server.set_tokens(newer.logic_server.tokens),
            Err(mistakes) => {
                for mistake in mistakes.lines() {
                    log::error!("SIGHUP: no token changes: {mistake}");
                }
            }
        }
    });
    log::info!("{signal}: ending");
    server.stop();
    Ok(())
}

/// Waits for a signal to end. Calls `hangup` for every SIGHUP before it.
fn until_end(signals: &mut Signals, mut hangup: impl FnMut()) -> Signal {
    loop {
        match signals.wait() {
            Signal::Hangup => hangup(),
            signal => return signal,
        }
    }
}

fn reload(serve: &Serve, log: &LogOutput, app: &mut App) {
    for reopened in [log.reopen(), app.reopen()] {
        if let Err(error) = reopened {
            log::error!("SIGHUP: {error}");
        }
    }
    let level = app.config().log.level;
    let reloaded = match configure(serve).and_then(|newer| app.reload(&newer)) {
        Ok(reloaded) => reloaded,
        Err(mistakes) => {
            for mistake in mistakes.lines() {
                log::error!("SIGHUP: nothing changes: {mistake}");
            }
            return;
        }
    };
    // Also if the key is the same: the level may have been changed at the debug address.
    let newer = app.config().log.level;
    if let Err(error) = log.set_level(newer)
        && newer != level
    {
        log::warn!("SIGHUP: {error}");
    }
    for change in &reloaded.alive {
        log::info!("SIGHUP: {change}");
    }
    for change in &reloaded.later {
        log::warn!("SIGHUP: {change}, at the next start");
    }
    if reloaded.alive.is_empty() && reloaded.later.is_empty() {
        log::info!("SIGHUP: no key has changed");
    }
}

/// A core that fails has lost the state of its connections. Without it its clients would hang.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}
