//! The two servers as processes: from the checked configuration to the signal that ends them.

use std::fs;

use comet_config::{Config, Machine, Mistakes, Source, load, load_for_logic};
use comet_ops::{Signal, Signals};

use crate::App;
use crate::args::Serve;
use crate::log_output::LogOutput;
use crate::pid_file::PidFile;

/// Reads and checks the configuration: the file, and the flags that overrule it.
///
/// # Errors
/// All mistakes, a line each.
pub fn configure(serve: &Serve) -> Result<Config, String> {
    read(serve, load)
}

/// The same for `comet logic`, for which the file of comets on other hosts will do.
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
        sets: &serve.sets,
        cores: serve.cores.as_deref(),
        control_cores: serve.control_cores.as_deref(),
    };
    load(&source, &machine).map_err(|mistakes| mistakes.to_string())
}

/// Runs comet until it is told to end. SIGHUP reads the configuration again, in the layers of `serve`.
///
/// # Errors
/// Why it did not start, as a sentence.
///
/// # Panics
/// If the process has a log already.
pub fn serve(serve: &Serve, config: &Config) -> Result<(), String> {
    // First: where another comet runs already, nothing is touched.
    let pid_file = config.server.pid_file.as_deref().map(PidFile::claim).transpose()?;
    let log = LogOutput::start(&config.log)?;
    abort_on_panic();
    // Before anything starts: a signal that comes while the cores start is not lost.
    let mut signals = Signals::listen().map_err(|error| error.to_string())?;
    let mut app = App::start(config).map_err(|error| error.to_string())?;
    if let Some(pid_file) = &pid_file {
        pid_file.write()?;
    }
    let signal = until_end(&mut signals, || reload(serve, &log, &mut app));
    log::info!("{signal}: saying goodbye");
    let ended = app.drain();
    log::info!("{} of {} cores drained in time", ended.drained, ended.cores);
    Ok(())
}

/// Runs `comet logic` until it is told to end. SIGHUP opens the log file again.
///
/// # Errors
/// Why it did not start, as a sentence.
///
/// # Panics
/// If the process has a log already.
pub fn logic(config: &Config) -> Result<(), String> {
    let log = LogOutput::start(&config.log)?;
    abort_on_panic();
    let mut signals = Signals::listen().map_err(|error| error.to_string())?;
    let server = crate::logic::start(config).map_err(|error| error.to_string())?;
    let signal = until_end(&mut signals, || match log.reopen() {
        Ok(()) => log::info!("SIGHUP: the log file is open; settings change at the next start"),
        Err(error) => log::error!("SIGHUP: {error}"),
    });
    log::info!("{signal}: ending");
    server.stop();
    Ok(())
}

/// Waits for a signal to end; every SIGHUP before it is one call of `hangup`.
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
    // Also where the file says the same: somebody else may have changed the level.
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

/// A core that fails has lost its connections' state; going on without it would hang its clients.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}
